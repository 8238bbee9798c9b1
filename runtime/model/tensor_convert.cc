#include "runtime/model/tensor_convert.h"

#include "kernels/core/dequantize.h"
#include "kernels/core/status.h"

namespace spotd::model {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (const int64_t size : shape) {
    if (out.size() > 1) out += ", ";
    out += std::to_string(size);
  }
  return out + "]";
}

}  // namespace

absl::Status CheckShape(const TensorView& tensor, const std::vector<int64_t>& shape,
                        const std::string& file, const std::string& name) {
  if (tensor.shape == shape) return absl::OkStatus();
  return DataLoss(file, ": tensor ", name, " has shape ", ShapeText(tensor.shape), ", not ",
                  ShapeText(shape));
}

std::vector<float> ToFloats(const TensorView& tensor) {
  const DTypeInfo info = GetDTypeInfo(tensor.type);
  const size_t count = tensor.bytes / static_cast<size_t>(info.block_bytes) *
                       static_cast<size_t>(info.block_elements);
  std::vector<float> out(count);
  DequantizeRow(tensor.type, tensor.data, out.data(), static_cast<int64_t>(count));
  return out;
}

}  // namespace spotd::model
