#include "kernels/core/dequantize.h"

#include <cstring>

#include "kernels/core/check.h"

namespace spotd {
namespace {

constexpr int kSuperBlock = 256;  // weights in a block of a K type
constexpr int kGroupsPerSuperBlock = kSuperBlock / kQuantGroup;

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

Fp16 LoadHalf(const uint8_t* bytes) {
  return {Load<uint16_t>(bytes)};
}

void SetScale(const uint8_t* d, QuantGroup* out) {
  out->d = LoadHalf(d);
  out->scale[0] = out->scale[1] = ToFloat(out->d);
  out->offset = -0.0f;
}

void SetScaleAndOffset(const uint8_t* d, QuantGroup* out) {
  SetScale(d, out);
  out->m = LoadHalf(d + 2);
  out->offset = ToFloat(out->m);
}

// The 32 nibbles of Q4_0 to Q5_1: weight i < 16 is the low half of byte i, weight 16 + i its high
// half.
void UnpackNibbles(const uint8_t* nibbles, int zero, QuantGroup* out) {
  for (int i = 0; i < 16; ++i) {
    out->q[i] = static_cast<int8_t>((nibbles[i] & 0xf) - zero);
    out->q[16 + i] = static_cast<int8_t>((nibbles[i] >> 4) - zero);
  }
}

// Adds the fifth bits of Q5_0 and Q5_1: bit i of the word belongs to weight i.
void AddFifthBits(const uint8_t* bits, QuantGroup* out) {
  const uint32_t word = Load<uint32_t>(bits);
  for (int i = 0; i < kQuantGroup; ++i) {
    out->q[i] = static_cast<int8_t>(out->q[i] + static_cast<int>((word >> i) & 1u) * 16);
  }
}

void DecodeQ8_0(const uint8_t* block, QuantGroup* out) {
  SetScale(block, out);
  std::memcpy(out->q, block + 2, kQuantGroup);
}

void DecodeQ4_0(const uint8_t* block, QuantGroup* out) {
  SetScale(block, out);
  UnpackNibbles(block + 2, 8, out);
}

void DecodeQ4_1(const uint8_t* block, QuantGroup* out) {
  SetScaleAndOffset(block, out);
  UnpackNibbles(block + 4, 0, out);
}

void DecodeQ5_0(const uint8_t* block, QuantGroup* out) {
  SetScale(block, out);
  UnpackNibbles(block + 6, 16, out);
  AddFifthBits(block + 2, out);
}

void DecodeQ5_1(const uint8_t* block, QuantGroup* out) {
  SetScaleAndOffset(block, out);
  UnpackNibbles(block + 8, 0, out);
  AddFifthBits(block + 4, out);
}

// The 6-bit scale and minimum of group `g` of Q4_K and Q5_K. Groups 0-3 have theirs in bytes g and
// g + 4; groups 4-7 have their low four bits in byte g + 4 and their high two in the spare bits of
// bytes g - 4 and g.
void SetKScale(const uint8_t* block, int g, QuantGroup* out) {
  const uint8_t* packed = block + 4;
  int scale = 0, min = 0;
  if (g < 4) {
    scale = packed[g] & 63;
    min = packed[g + 4] & 63;
  } else {
    scale = (packed[g + 4] & 0xf) | ((packed[g - 4] >> 6) << 4);
    min = (packed[g + 4] >> 4) | ((packed[g] >> 6) << 4);
  }
  SetScaleAndOffset(block, out);
  out->sub_scale[0] = out->sub_scale[1] = static_cast<int8_t>(scale);
  out->sub_min = static_cast<int8_t>(min);
  out->scale[0] = out->scale[1] = ToFloat(out->d) * static_cast<float>(scale);
  out->offset = -(ToFloat(out->m) * static_cast<float>(min));
}

// Each 32 bytes of Q4_K and Q5_K hold two groups: the low halves, then the high halves.
void UnpackKNibbles(const uint8_t* nibbles, int g, QuantGroup* out) {
  const uint8_t* bytes = nibbles + (g / 2) * kQuantGroup;
  const int shift = (g % 2) * 4;
  for (int i = 0; i < kQuantGroup; ++i) out->q[i] = static_cast<int8_t>((bytes[i] >> shift) & 0xf);
}

void DecodeQ4K(const uint8_t* block, int g, QuantGroup* out) {
  SetKScale(block, g, out);
  UnpackKNibbles(block + 16, g, out);
}

void DecodeQ5K(const uint8_t* block, int g, QuantGroup* out) {
  SetKScale(block, g, out);
  UnpackKNibbles(block + 48, g, out);
  const uint8_t* high = block + 16;
  for (int i = 0; i < kQuantGroup; ++i) {
    out->q[i] = static_cast<int8_t>(out->q[i] | (((high[i] >> g) & 1) << 4));
  }
}

// Q6_K: each half block of 128 weights has 64 bytes of low nibbles and 32 bytes of high bit pairs.
void DecodeQ6K(const uint8_t* block, int g, QuantGroup* out) {
  const int half = g / 4, quarter = g % 4;
  const uint8_t* low = block + half * 64 + (quarter % 2) * kQuantGroup;
  const uint8_t* high = block + 128 + half * 32;
  const int low_shift = (quarter / 2) * 4;
  for (int i = 0; i < kQuantGroup; ++i) {
    const int bits = ((low[i] >> low_shift) & 0xf) | (((high[i] >> (2 * quarter)) & 3) << 4);
    out->q[i] = static_cast<int8_t>(bits - 32);
  }
  SetScale(block + 208, out);
  for (int i = 0; i < 2; ++i) {
    out->sub_scale[i] = static_cast<int8_t>(block[192 + 2 * g + i]);
    out->scale[i] = ToFloat(out->d) * static_cast<float>(out->sub_scale[i]);
  }
}

void DequantizeQuantized(DType type, const void* src, float* dst, int64_t n) {
  QuantGroup group;
  for (int64_t g = 0; g < n / kQuantGroup; ++g) {
    DecodeQuantGroup(type, src, g, &group);
    for (int i = 0; i < kQuantGroup; ++i) {
      const float product = group.scale[i / 16] * static_cast<float>(group.q[i]);
      dst[g * kQuantGroup + i] = product + group.offset;
    }
  }
}

}  // namespace

void DecodeQuantGroup(DType type, const void* row, int64_t group, QuantGroup* out) {
  const DTypeInfo info = GetDTypeInfo(type);
  const int64_t groups_per_block = info.block_elements / kQuantGroup;
  SPOTD_CHECK(groups_per_block == 1 || groups_per_block == kGroupsPerSuperBlock);
  const uint8_t* block =
      static_cast<const uint8_t*>(row) + group / groups_per_block * info.block_bytes;
  const int g = static_cast<int>(group % groups_per_block);
  switch (type) {
    case DType::kQ8_0:
      return DecodeQ8_0(block, out);
    case DType::kQ4_0:
      return DecodeQ4_0(block, out);
    case DType::kQ4_1:
      return DecodeQ4_1(block, out);
    case DType::kQ5_0:
      return DecodeQ5_0(block, out);
    case DType::kQ5_1:
      return DecodeQ5_1(block, out);
    case DType::kQ4K:
      return DecodeQ4K(block, g, out);
    case DType::kQ5K:
      return DecodeQ5K(block, g, out);
    case DType::kQ6K:
      return DecodeQ6K(block, g, out);
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      break;
  }
}

void DequantizeRow(DType type, const void* src, float* dst, int64_t n) {
  const auto* bytes = static_cast<const uint8_t*>(src);
  switch (type) {
    case DType::kF32:
      std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = ToFloat(LoadHalf(bytes + 2 * i));
      return;
    case DType::kBf16:
      for (int64_t i = 0; i < n; ++i) dst[i] = ToFloat(Bf16{Load<uint16_t>(bytes + 2 * i)});
      return;
    default:
      DequantizeQuantized(type, src, dst, n);
  }
}

}  // namespace spotd
