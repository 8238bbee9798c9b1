#include "kernels/cpu/weight.h"

#include <cstring>
#include <utility>

#include "kernels/core/dequantize.h"
#include "kernels/core/status.h"

namespace spotd::kernels {

CpuWeight::CpuWeight(int64_t rows, int64_t cols, DType type, std::vector<uint8_t> data)
    : Weight(rows, cols, data.size()), type_(type), data_(std::move(data)) {}

void CpuWeight::DecodeRow(int64_t row, float* out) const {
  DequantizeRow(type_, data_.data() + static_cast<size_t>(row) * RowBytes(type_, cols_), out,
                cols_);
}

absl::StatusOr<std::unique_ptr<Weight>> MakeCpuWeight(const WeightSource& source) {
  const DTypeInfo info = GetDTypeInfo(source.type);
  if (source.rows <= 0 || source.cols <= 0 || source.data == nullptr) {
    return InvalidArgument(source.name, ": empty matrix ", source.rows, " x ", source.cols);
  }
  if (source.cols % info.block_elements != 0) {
    return InvalidArgument(source.name, ": rows of ", source.cols, " are not whole blocks of ",
                           info.name, " (", info.block_elements, ")");
  }
  const size_t row_bytes = RowBytes(source.type, source.cols);
  std::vector<uint8_t> data(static_cast<size_t>(source.rows) * row_bytes);
  for (int64_t r = 0; r < source.rows; ++r) {
    const int64_t from = source.row_order == nullptr ? r : source.row_order[r];
    if (from < 0 || from >= source.rows) {
      return InvalidArgument(source.name, ": row ", r, " is taken from row ", from, " of ",
                             source.rows);
    }
    std::memcpy(data.data() + static_cast<size_t>(r) * row_bytes,
                static_cast<const uint8_t*>(source.data) + static_cast<size_t>(from) * row_bytes,
                row_bytes);
  }
  return std::make_unique<CpuWeight>(source.rows, source.cols, source.type, std::move(data));
}

}  // namespace spotd::kernels
