#include "kernels/cuda/cuda_weight.h"

#include <cstring>
#include <vector>

#include "kernels/core/dequantize.h"
#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace spotd::kernels::cuda {

absl::Status CheckSource(const WeightSource& source) {
  const DTypeInfo info = GetDTypeInfo(source.type);
  if (source.rows <= 0 || source.cols <= 0 || source.data == nullptr) {
    return InvalidArgument(source.name, ": empty tensor [", source.rows, ", ", source.cols, "]");
  }
  if (source.cols % info.block_elements != 0) {
    return InvalidArgument(source.name, ": ", source.cols, " columns do not divide into blocks of ",
                           info.block_elements, " (", info.name, ")");
  }
  return absl::OkStatus();
}

void DecodeRows(const WeightSource& source, int64_t begin, int64_t end, uint16_t* out) {
  const size_t row_bytes = RowBytes(source.type, source.cols);
  std::vector<float> row(static_cast<size_t>(source.cols));
  for (int64_t r = begin; r < end; ++r) {
    const int64_t from = source.row_order == nullptr ? r : source.row_order[r];
    const char* bytes =
        static_cast<const char*>(source.data) + static_cast<size_t>(from) * row_bytes;
    if (source.type == DType::kBf16) {
      std::memcpy(out, bytes, row_bytes);
      out += source.cols;
      continue;
    }
    DequantizeRow(source.type, bytes, row.data(), source.cols);
    for (const float value : row) *out++ = ToBf16(value).bits;
  }
}

}  // namespace spotd::kernels::cuda
