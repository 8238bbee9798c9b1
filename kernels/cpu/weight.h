// A matrix in the form the CPU kernels read.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/core/dtype.h"

namespace spotd::kernels {

class CpuWeight final : public Weight {
 public:
  CpuWeight(int64_t rows, int64_t cols, DType type, std::vector<uint8_t> data);
  DType type() const { return type_; }
  // Decodes one row. out: [cols]
  void DecodeRow(int64_t row, float* out) const;

 private:
  DType type_;
  std::vector<uint8_t> data_;
};

// INVALID_ARGUMENT naming the tensor when the shape does not fit the type or row_order leaves the
// matrix.
absl::StatusOr<std::unique_ptr<Weight>> MakeCpuWeight(const WeightSource& source);

}  // namespace spotd::kernels
