// Large matrix products through cuBLASLt, found at run time: a machine without the library still
// runs, on our own kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace spotd::kernels::cuda {

// y[rows, out_dim] = x[rows, in_dim] W[out_dim, in_dim]^T, bf16 in, fp32 sums, row-major. `y` is
// bf16 or float.
struct GemmArgs {
  const void* x;
  const void* weight;
  void* y;
  int32_t rows;
  int32_t out_dim;
  int32_t in_dim;
  bool y_is_float;
  bool accumulate;  // y += ...; only with y_is_float
};

class CublasLt {
 public:
  // Null when libcublasLt cannot be loaded or refuses the device.
  static std::unique_ptr<CublasLt> Load();
  ~CublasLt();

  // Enqueues the product. False when the library has no algorithm for the shape or fails: the
  // caller uses its own kernel.
  bool Gemm(const GemmArgs& args, cudaStream_t stream);

 private:
  struct Impl;
  explicit CublasLt(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spotd::kernels::cuda
