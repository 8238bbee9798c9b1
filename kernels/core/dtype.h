// Element types of tensors on disk and in memory, with the block geometry of the quantised ones.
//
// The quantised formats are those of GGUF (ggml's block formats): a row is a whole number of
// blocks, each block holds `block_elements` weights in `block_bytes` bytes. See
// kernels/core/dequantize.h for their decoding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace spotd {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBf16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4K,
  kQ5K,
  kQ6K
};

struct DTypeInfo {
  std::string_view name;
  int block_elements;
  int block_bytes;
};

constexpr DTypeInfo GetDTypeInfo(DType type) {
  switch (type) {
    case DType::kF32:
      return {"F32", 1, 4};
    case DType::kF16:
      return {"F16", 1, 2};
    case DType::kBf16:
      return {"BF16", 1, 2};
    case DType::kQ8_0:
      return {"Q8_0", 32, 34};
    case DType::kQ4_0:
      return {"Q4_0", 32, 18};
    case DType::kQ4_1:
      return {"Q4_1", 32, 20};
    case DType::kQ5_0:
      return {"Q5_0", 32, 22};
    case DType::kQ5_1:
      return {"Q5_1", 32, 24};
    case DType::kQ4K:
      return {"Q4_K", 256, 144};
    case DType::kQ5K:
      return {"Q5_K", 256, 176};
    case DType::kQ6K:
      return {"Q6_K", 256, 210};
  }
  return {"?", 1, 1};
}

// Bytes of a row of `elements` weights. `elements` must be a multiple of the type's block.
constexpr size_t RowBytes(DType type, int64_t elements) {
  const DTypeInfo info = GetDTypeInfo(type);
  return static_cast<size_t>(elements / info.block_elements) *
         static_cast<size_t>(info.block_bytes);
}

}  // namespace spotd
