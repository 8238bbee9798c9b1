// Checkpoint matrices of random values in every element type, for tests and benchmarks.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/core/dequantize.h"
#include "kernels/core/dtype.h"
#include "kernels/core/float16.h"

namespace spotd {

inline void StoreHalf(float value, uint8_t* bytes) {
  const Fp16 half = ToFp16(value);
  std::memcpy(bytes, &half, sizeof(half));
}

// Gives the block at `block`, whose bytes are random, scales that make weights of about +-1.
inline void SetRandomScales(DType type, float unit, uint8_t* block) {
  switch (type) {
    case DType::kQ8_0:
      return StoreHalf(unit / 128, block);
    case DType::kQ4_0:
      return StoreHalf(unit / 8, block);
    case DType::kQ5_0:
      return StoreHalf(unit / 16, block);
    case DType::kQ4_1:
      StoreHalf(unit / 8, block);
      return StoreHalf(-unit, block + 2);
    case DType::kQ5_1:
      StoreHalf(unit / 16, block);
      return StoreHalf(-unit, block + 2);
    case DType::kQ4K:
      StoreHalf(unit / (8 * 32), block);
      return StoreHalf(unit / 32, block + 2);
    case DType::kQ5K:
      StoreHalf(unit / (16 * 32), block);
      return StoreHalf(unit / 32, block + 2);
    case DType::kQ6K:
      return StoreHalf(unit / (32 * 64), block + 208);
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      return;
  }
}

// [rows, cols] encoded as `type`; cols is a multiple of the type's block.
inline std::vector<uint8_t> RandomMatrix(DType type, int64_t rows, int64_t cols, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows) * RowBytes(type, cols));
  const auto size = static_cast<size_t>(GetDTypeInfo(type).block_bytes);
  for (size_t at = 0; at < bytes.size(); at += size) {
    uint8_t* const block = bytes.data() + at;
    const float value = uniform(random);
    const uint16_t bf16 = ToBf16(value).bits;
    switch (type) {
      case DType::kF32:
        std::memcpy(block, &value, sizeof(value));
        break;
      case DType::kF16:
        StoreHalf(value, block);
        break;
      case DType::kBf16:
        std::memcpy(block, &bf16, sizeof(bf16));
        break;
      default:
        for (size_t i = 0; i < size; ++i) block[i] = static_cast<uint8_t>(random());
        SetRandomScales(type, value, block);
    }
  }
  return bytes;
}

inline std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace spotd
