// Decoding of the element types of dtype.h, scalar and exact: the definition that packed forms and
// kernels are tested against. The quantised formats are ggml's; goldens in tests/data/dequantize
// hold the values that the `gguf` Python package gives.
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/float16.h"

namespace spotd {

// The number of weights in a QuantGroup.
inline constexpr int kQuantGroup = 32;

// 32 consecutive weights of a quantised row: weight i is scale[i / 16] * q[i] + offset, rounded
// after the product and after the sum. Formats without an offset have -0, so that a product of -0
// stays -0. Only Q6_K has two different scales.
struct QuantGroup {
  int8_t q[kQuantGroup];
  float scale[2];
  float offset;
  // The stored fields, for packers. scale[i] = d, or d * sub_scale[i] in the K types; offset = m in
  // Q4_1 and Q5_1,
  // -(m * sub_min) in Q4_K and Q5_K.
  Fp16 d;
  Fp16 m;
  int8_t sub_scale[2];
  int8_t sub_min;
};

constexpr bool IsQuantized(DType type) {
  return GetDTypeInfo(type).block_elements > 1;
}

// Decodes weights [32 group, 32 group + 32) of the row at `row`. `type` is quantised, `group`
// within the row.
void DecodeQuantGroup(DType type, const void* row, int64_t group, QuantGroup* out);

// Writes the `n` weights at `src` to `dst` as floats. n is a multiple of the type's block; src
// needs no alignment.
void DequantizeRow(DType type, const void* src, float* dst, int64_t n);

}  // namespace spotd
