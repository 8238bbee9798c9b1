// Selector matrices stored as 8-bit integers, half the bytes of bf16: each row has one scale,
// value = scale * code, code in [-127, 127]. In a file the codes are a tensor of type I8 and the
// scales one of type F32 named after it with ".scale" appended, one number a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "runtime/formats/safetensors_file.h"

namespace spotd::model {

inline constexpr const char* kInt8TypeName = "I8";

std::string Int8ScaleName(const std::string& tensor);

struct Int8Matrix {
  std::vector<int8_t> codes;  // [rows, cols]
  std::vector<float> scales;  // [rows]
};

// `values`: [rows, cols] finite numbers. A row of zeros has the scale 0.
Int8Matrix QuantizeInt8(const std::vector<float>& values, int64_t rows);

// A matrix as backends take it.
struct StoredMatrix {
  DType type = DType::kBf16;
  std::vector<uint8_t> bytes;
};

// The matrix `name` of the file, which is of type I8: as Q8_0, which keeps the codes and half the
// bytes, or rounded to bf16 where a row is no whole number of its blocks or a scale is too small
// for its fp16. DATA_LOSS when it is not a matrix, its size is off, or its scales are missing, of
// another size, or no finite numbers.
absl::StatusOr<StoredMatrix> ReadInt8(const formats::SafetensorsFile& file,
                                      const std::string& name);

}  // namespace spotd::model
