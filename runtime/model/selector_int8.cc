#include "runtime/model/selector_int8.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/status.h"

namespace spotd::model {
namespace {

constexpr float kLargestCode = 127.0f;

bool IsScale(float value) {
  return std::isfinite(value) && value >= 0.0f;
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

absl::StatusOr<std::vector<Bf16>> ReadInt8(const formats::SafetensorsFile& file,
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
  const auto* codes = static_cast<const int8_t*>(tensor.data);
  std::vector<Bf16> values(rows * cols);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = ToBf16(scales[i / cols] * static_cast<float>(codes[i]));
  }
  return values;
}

}  // namespace spotd::model
