// Linked instead of kernels/cuda when the build has no CUDA.
#include "kernels/core/status.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_distill.h"

namespace spotd::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  return FailedPrecondition("this binary was built without CUDA (cmake -DSPOTD_CUDA=ON)");
}

absl::StatusOr<std::unique_ptr<DistillKernels>> CreateCudaDistillKernels(Backend* /*backend*/) {
  return FailedPrecondition("this binary was built without CUDA (cmake -DSPOTD_CUDA=ON)");
}

bool CudaIsUsable() {
  return false;
}

}  // namespace spotd::kernels
