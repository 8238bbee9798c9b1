#include "runtime/model/selector_int8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace spotd::model {
namespace {

constexpr float kLargestCode = 127.0f;

bool IsScale(float value) {
  return std::isfinite(value) && value >= 0.0f;
}

// Codes and scales of a matrix in a file.
struct CodedRows {
  const int8_t* codes;  // [rows, cols]
  const std::vector<float>& scales;
  size_t cols;
};

// Whether fp16 keeps a scale to the precision that bf16 has.
bool FitsHalf(float scale) {
  return std::abs(ToFloat(ToFp16(scale)) - scale) <= scale / 512;
}

StoredMatrix ToQ8(const CodedRows& rows) {
  constexpr DTypeInfo kInfo = GetDTypeInfo(DType::kQ8_0);
  constexpr auto kBlock = static_cast<size_t>(kInfo.block_elements);
  static_assert(sizeof(Fp16) + kBlock == static_cast<size_t>(kInfo.block_bytes));
  const size_t row_blocks = rows.cols / kBlock;
  StoredMatrix out = {DType::kQ8_0, {}};
  out.bytes.resize(rows.scales.size() * row_blocks * (sizeof(Fp16) + kBlock));
  uint8_t* to = out.bytes.data();
  for (size_t block = 0; block < rows.scales.size() * row_blocks; ++block) {
    const Fp16 scale = ToFp16(rows.scales[block / row_blocks]);
    std::memcpy(to, &scale, sizeof(scale));
    std::memcpy(to + sizeof(scale), rows.codes + block * kBlock, kBlock);
    to += sizeof(scale) + kBlock;
  }
  return out;
}

StoredMatrix ToBf16Matrix(const CodedRows& rows) {
  StoredMatrix out = {DType::kBf16, {}};
  const size_t count = rows.scales.size() * rows.cols;
  out.bytes.resize(count * sizeof(Bf16));
  for (size_t i = 0; i < count; ++i) {
    const Bf16 value = ToBf16(rows.scales[i / rows.cols] * static_cast<float>(rows.codes[i]));
    std::memcpy(out.bytes.data() + i * sizeof(Bf16), &value, sizeof(value));
  }
  return out;
}

}  // namespace

std::string Int8ScaleName(const std::string& tensor) {
  return tensor + ".scale";
}

Int8Matrix QuantizeInt8(const std::vector<float>& values, int64_t rows) {
  Int8Matrix matrix;
  const size_t cols = values.size() / static_cast<size_t>(rows);
  for (auto row = values.begin(); row != values.end(); row += static_cast<std::ptrdiff_t>(cols)) {
    const auto end = row + static_cast<std::ptrdiff_t>(cols);
    float largest = 0;
    std::for_each(row, end, [&](float value) { largest = std::max(largest, std::abs(value)); });
    const float scale = largest / kLargestCode;
    matrix.scales.push_back(scale);
    std::transform(row, end, std::back_inserter(matrix.codes), [scale](float value) {
      const float code = scale > 0 ? std::nearbyint(value / scale) : 0.0f;
      return static_cast<int8_t>(std::clamp(code, -kLargestCode, kLargestCode));
    });
  }
  return matrix;
}

absl::StatusOr<StoredMatrix> ReadInt8(const formats::SafetensorsFile& file,
                                      const std::string& name) {
  const auto error = [&](const auto&... reason) {
    return DataLoss(file.path(), ": tensor ", name, " ", reason...);
  };
  const formats::SafetensorsTensor& tensor = file.tensors().at(name);
  if (tensor.shape.size() != 2) return error("of type I8 is not a matrix");
  const auto rows = static_cast<size_t>(tensor.shape[0]);
  const auto cols = static_cast<size_t>(tensor.shape[1]);
  if (tensor.bytes != rows * cols) {
    return error("has ", tensor.bytes, " bytes of data for ", rows * cols, " elements of I8");
  }
  const auto found = file.tensors().find(Int8ScaleName(name));
  if (found == file.tensors().end()) return error("has no scales: ", Int8ScaleName(name));
  const formats::SafetensorsTensor& stored = found->second;
  if (stored.type != DType::kF32 || stored.bytes != rows * sizeof(float)) {
    return error("needs ", rows, " scales of type F32; ", found->first, " has ", stored.bytes,
                 " bytes of ", stored.type_name);
  }
  std::vector<float> scales(rows);
  std::copy_n(static_cast<const char*>(stored.data), stored.bytes,
              reinterpret_cast<char*>(scales.data()));
  if (!std::all_of(scales.begin(), scales.end(), IsScale)) {
    return error("has a scale that is no number from 0 up");
  }
  const CodedRows coded = {static_cast<const int8_t*>(tensor.data), scales, cols};
  const auto block = static_cast<size_t>(GetDTypeInfo(DType::kQ8_0).block_elements);
  const bool fits = cols % block == 0 && std::all_of(scales.begin(), scales.end(), FitsHalf);
  return fits ? ToQ8(coded) : ToBf16Matrix(coded);
}

}  // namespace spotd::model
