// A matrix in the form the CPU kernels read (weight_layout.h).
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/core/dtype.h"
#include "kernels/cpu/weight_layout.h"

namespace spotd::kernels {

class CpuWeight final : public Weight {
 public:
  // `panels` holds NumPanels(rows) panels of PanelBytes(type, cols).
  CpuWeight(int64_t rows, int64_t cols, DType type, std::shared_ptr<uint8_t> panels);

  DType type() const { return type_; }
  const uint8_t* panels() const { return panels_.get(); }
  // Decodes one row, exactly as DequantizeRow. out: [cols]
  void DecodeRow(int64_t row, float* out) const;

 private:
  DType type_;
  std::shared_ptr<uint8_t> panels_;
};

// INVALID_ARGUMENT naming the tensor when the shape does not fit the type or row_order leaves the
// matrix; RESOURCE_EXHAUSTED when memory is short.
absl::StatusOr<std::unique_ptr<Weight>> MakeCpuWeight(const WeightSource& source);

}  // namespace spotd::kernels
