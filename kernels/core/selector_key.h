// How a selector key is stored (DESIGN 4): the arithmetic of one element and one scale, shared by
// host and device, and the plain per-key layout that the reference uses.
//
//   bf16  d x bf16.
//   int4  groups of 32 sharing one fp16 scale. value = scale * (code - 8), code in [0, 15].
//   fp4   groups of 16 sharing one e4m3 scale. value = scale * e2m1(code), code in [0, 15].
//
// Plain layout of a key of dimension d: the codes, d / 2 bytes, then the scales. Within a group the
// first half of the dimensions lies in the low nibbles and the second half in the high ones. A
// backend may order the bytes of a block its own way; the codes and scales are the same everywhere.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/core/float16.h"
#include "kernels/core/host_device.h"

namespace spotd::kernels {

enum class SelectorKeyFormat : uint8_t {
  kNone,  // the model has no selector
  kBf16,  // d x bf16
  kInt4,  // 72 bytes for d = 128
  kFp4,   // 72 bytes for d = 128
};

inline constexpr int kInt4Group = 32;
inline constexpr int kFp4Group = 16;

// A key's dimension must be a multiple of this.
SPOTD_HOST_DEVICE constexpr int SelectorKeyGroup(SelectorKeyFormat format) {
  return format == SelectorKeyFormat::kInt4  ? kInt4Group
         : format == SelectorKeyFormat::kFp4 ? kFp4Group
                                             : 1;
}

// Bytes of one key.
SPOTD_HOST_DEVICE constexpr size_t SelectorKeyBytes(SelectorKeyFormat format, int dim) {
  const auto d = static_cast<size_t>(dim);
  switch (format) {
    case SelectorKeyFormat::kBf16:
      return 2 * d;
    case SelectorKeyFormat::kInt4:
      return d / 2 + d / kInt4Group * sizeof(Fp16);
    case SelectorKeyFormat::kFp4:
      return d / 2 + d / kFp4Group;
    case SelectorKeyFormat::kNone:
      break;
  }
  return 0;
}

// --- int4 ---

// The scale of a group whose largest magnitude is `largest`.
SPOTD_HOST_DEVICE inline Fp16 Int4Scale(float largest) {
  const float scale = largest / 7.0f;
  return ToFp16(scale < 65504.0f ? scale : 65504.0f);
}

SPOTD_HOST_DEVICE inline uint8_t Int4Code(float x, Fp16 scale) {
  const float s = ToFloat(scale);
  const float q = s > 0.0f ? rintf(x / s) : 0.0f;
  return static_cast<uint8_t>(static_cast<int>(q < -8.0f ? -8.0f : q > 7.0f ? 7.0f : q) + 8);
}

SPOTD_HOST_DEVICE inline float Int4Value(uint8_t code, Fp16 scale) {
  return static_cast<float>(static_cast<int>(code) - 8) * ToFloat(scale);
}

// --- fp4 ---

// The value of an e4m3 byte without a sign: 4 exponent bits (bias 7), 3 mantissa bits, up to 448.
SPOTD_HOST_DEVICE inline float E4m3Value(uint8_t bits) {
  const uint32_t exponent = bits >> 3;
  const uint32_t mantissa = bits & 7u;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-9f;
  return FloatFromBits(((exponent + 120) << 23) | (mantissa << 20));
}

// The nearest e4m3 value of x >= 0, ties to even, at most 448.
SPOTD_HOST_DEVICE inline uint8_t ToE4m3(float x) {
  if (!(x < 448.0f)) return 0x7e;
  if (x < 0x1p-6f) return static_cast<uint8_t>(rintf(x * 0x1p9f));
  const uint32_t bits = FloatBits(x);
  return static_cast<uint8_t>((bits + 0x7ffffu + ((bits >> 20) & 1u) - (120u << 23)) >> 20);
}

SPOTD_HOST_DEVICE inline uint8_t Fp4Scale(float largest) {
  return ToE4m3(largest / 6.0f);
}

// Magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 have codes 0 to 7; bit 3 is the sign. Ties to even codes.
SPOTD_HOST_DEVICE inline uint8_t Fp4Code(float x, uint8_t scale) {
  const float s = E4m3Value(scale);
  const float m = s > 0.0f ? fabsf(x) / s : 0.0f;
  const int code = m <= 0.25f   ? 0
                   : m < 0.75f  ? 1
                   : m <= 1.25f ? 2
                   : m < 1.75f  ? 3
                   : m <= 2.5f  ? 4
                   : m < 3.5f   ? 5
                   : m <= 5.0f  ? 6
                                : 7;
  return static_cast<uint8_t>(code | (x < 0.0f && code != 0 ? 8 : 0));
}

// Twice the magnitude of a code, exactly: an integer in [-12, 12].
SPOTD_HOST_DEVICE inline int Fp4Doubled(uint8_t code) {
  const int magnitude = code & 7;
  const int doubled = magnitude < 4 ? magnitude : (2 + (magnitude & 1)) << (magnitude / 2 - 1);
  return (code & 8) != 0 ? -doubled : doubled;
}

SPOTD_HOST_DEVICE inline float Fp4Value(uint8_t code, uint8_t scale) {
  return static_cast<float>(Fp4Doubled(code)) * 0.5f * E4m3Value(scale);
}

// --- one key in the plain layout ---

// Stores the codes of one group of 2 * half values; `code(i)` is the code of dimension i.
template <typename CodeOf>
SPOTD_HOST_DEVICE inline void StoreNibbles(int half, uint8_t* out, const CodeOf& code) {
  for (int i = 0; i < half; ++i) out[i] = static_cast<uint8_t>(code(i) | (code(i + half) << 4));
}

SPOTD_HOST_DEVICE inline float LargestMagnitude(const float* x, int n) {
  float largest = 0.0f;
  for (int i = 0; i < n; ++i) largest = fmaxf(largest, fabsf(x[i]));
  return largest;
}

// x: [dim] -> out: SelectorKeyBytes(format, dim) bytes, 2-byte aligned.
SPOTD_HOST_DEVICE inline void EncodeSelectorKey(SelectorKeyFormat format, const float* x, int dim,
                                                void* out) {
  auto* const bytes = static_cast<uint8_t*>(out);
  if (format == SelectorKeyFormat::kBf16) {
    for (int i = 0; i < dim; ++i) static_cast<Bf16*>(out)[i] = ToBf16(x[i]);
  } else if (format == SelectorKeyFormat::kInt4) {
    auto* const scales = reinterpret_cast<Fp16*>(bytes + dim / 2);
    for (int g = 0; g < dim / kInt4Group; ++g) {
      const float* const group = x + g * kInt4Group;
      const Fp16 scale = Int4Scale(LargestMagnitude(group, kInt4Group));
      scales[g] = scale;
      StoreNibbles(kInt4Group / 2, bytes + g * kInt4Group / 2,
                   [&](int i) { return Int4Code(group[i], scale); });
    }
  } else if (format == SelectorKeyFormat::kFp4) {
    for (int g = 0; g < dim / kFp4Group; ++g) {
      const float* const group = x + g * kFp4Group;
      const uint8_t scale = Fp4Scale(LargestMagnitude(group, kFp4Group));
      bytes[dim / 2 + g] = scale;
      StoreNibbles(kFp4Group / 2, bytes + g * kFp4Group / 2,
                   [&](int i) { return Fp4Code(group[i], scale); });
    }
  }
}

// The inverse: key -> x: [dim].
SPOTD_HOST_DEVICE inline void DecodeSelectorKey(SelectorKeyFormat format, const void* key, int dim,
                                                float* x) {
  const auto* const bytes = static_cast<const uint8_t*>(key);
  const auto nibble = [bytes](int group, int i) {
    const int in_group = i % group;
    const uint8_t byte = bytes[i / group * (group / 2) + in_group % (group / 2)];
    return static_cast<uint8_t>(in_group < group / 2 ? byte & 15 : byte >> 4);
  };
  for (int i = 0; i < dim; ++i) {
    if (format == SelectorKeyFormat::kBf16) {
      x[i] = ToFloat(static_cast<const Bf16*>(key)[i]);
    } else if (format == SelectorKeyFormat::kInt4) {
      const auto* const scales = reinterpret_cast<const Fp16*>(bytes + dim / 2);
      x[i] = Int4Value(nibble(kInt4Group, i), scales[i / kInt4Group]);
    } else if (format == SelectorKeyFormat::kFp4) {
      x[i] = Fp4Value(nibble(kFp4Group, i), bytes[dim / 2 + i / kFp4Group]);
    }
  }
}

}  // namespace spotd::kernels
