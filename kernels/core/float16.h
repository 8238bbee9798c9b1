// Scalar conversions between float and the two 16-bit floating formats, for host and device.
// Header-only; the vectorised forms live with the kernels that need them.
#pragma once

#include <cstdint>

#include "kernels/core/host_device.h"

namespace spotd {

// The upper half of an IEEE binary32. Used for KV, selector keys and bf16 checkpoints.
struct Bf16 {
  uint16_t bits;
};

// IEEE binary16. Used for the scales of quantised weights and of int4 selector keys.
struct Fp16 {
  uint16_t bits;
};

SPOTD_HOST_DEVICE inline float ToFloat(Bf16 x) {
  return FloatFromBits(static_cast<uint32_t>(x.bits) << 16);
}

// Rounds to nearest, ties to even. NaN stays NaN.
SPOTD_HOST_DEVICE inline Bf16 ToBf16(float f) {
  const uint32_t bits = FloatBits(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  const uint32_t rounding = 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>((bits + rounding) >> 16)};
}

SPOTD_HOST_DEVICE inline float ToFloat(Fp16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 0x1f) return FloatFromBits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return FloatFromBits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24 is exact in binary32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return FloatFromBits(FloatBits(magnitude) | sign);
}

// Rounds to nearest, ties to even; overflow becomes infinity, NaN stays NaN.
SPOTD_HOST_DEVICE inline Fp16 ToFp16(float f) {
  const uint32_t bits = FloatBits(f);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // Below the smallest normal: adding 0.5 puts the rounded subnormal mantissa into the low bits.
    const float shifted = FloatFromBits(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (FloatBits(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace spotd
