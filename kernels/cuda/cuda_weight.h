// A weight matrix on the device: bf16, row-major.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace spotd::kernels::cuda {

class CudaWeight final : public Weight {
 public:
  CudaWeight(int64_t rows, int64_t cols, Buffer data)
      : Weight(rows, cols, data.bytes()), data_(std::move(data)) {}
  const void* data() const { return data_.data(); }

 private:
  Buffer data_;
};

// Decodes rows [begin, end) of the source, in the order it asks for, to bf16 at `out`.
void DecodeRows(const WeightSource& source, int64_t begin, int64_t end, uint16_t* out);

// INVALID_ARGUMENT, naming the tensor, when the shape does not fit the type.
absl::Status CheckSource(const WeightSource& source);

}  // namespace spotd::kernels::cuda
