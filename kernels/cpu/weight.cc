#include "kernels/cpu/weight.h"

#include <utility>

#include "kernels/core/status.h"
#include "kernels/cpu/weight_memory.h"

namespace spotd::kernels {
namespace {

absl::Status CheckShape(const WeightSource& source) {
  const DTypeInfo info = GetDTypeInfo(source.type);
  if (source.rows <= 0 || source.cols <= 0 || source.data == nullptr) {
    return InvalidArgument(source.name, ": empty matrix, ", source.rows, " x ", source.cols);
  }
  if (source.cols % info.block_elements != 0) {
    return InvalidArgument(source.name, ": rows of ", source.cols,
                           " weights are not whole blocks of ", info.name, " (",
                           info.block_elements, " weights)");
  }
  return absl::OkStatus();
}

}  // namespace

CpuWeight::CpuWeight(int64_t rows, int64_t cols, DType type, std::shared_ptr<uint8_t> panels)
    : Weight(rows, cols, static_cast<size_t>(NumPanels(rows)) * PanelBytes(type, cols)),
      type_(type),
      panels_(std::move(panels)) {}

void CpuWeight::DecodeRow(int64_t row, float* out) const {
  const uint8_t* panel =
      panels_.get() + static_cast<size_t>(row / kPanelRows) * PanelBytes(type_, cols_);
  UnpackRow(type_, cols_, panel, static_cast<int>(row % kPanelRows), out);
}

absl::StatusOr<std::unique_ptr<Weight>> MakeCpuWeight(const WeightSource& source) {
  SPOTD_RETURN_IF_ERROR(CheckShape(source));
  const size_t row_bytes = RowBytes(source.type, source.cols);
  const size_t panel_bytes = PanelBytes(source.type, source.cols);
  const size_t bytes = static_cast<size_t>(NumPanels(source.rows)) * panel_bytes;
  std::shared_ptr<uint8_t> panels = AllocateWeightMemory(bytes);
  if (panels == nullptr) {
    return ResourceExhausted(source.name, ": no memory for ", bytes, " bytes of weights");
  }
  for (int64_t row = 0; row < source.rows; ++row) {
    const int64_t from = source.row_order == nullptr ? row : source.row_order[row];
    if (from < 0 || from >= source.rows) {
      return InvalidArgument(source.name, ": row ", row, " is taken from row ", from,
                             ", of a matrix of ", source.rows, " rows");
    }
    const auto* data = static_cast<const uint8_t*>(source.data);
    PackRow(source.type, source.cols, data + static_cast<size_t>(from) * row_bytes,
            static_cast<int>(row % kPanelRows),
            panels.get() + static_cast<size_t>(row / kPanelRows) * panel_bytes);
  }
  return std::make_unique<CpuWeight>(source.rows, source.cols, source.type, std::move(panels));
}

}  // namespace spotd::kernels
