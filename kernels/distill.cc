#include "kernels/distill.h"

#include "kernels/backend.h"
#include "kernels/core/status.h"
#include "kernels/cpu/distill.h"
#include "kernels/cuda/cuda_distill.h"

namespace spotd::kernels {

absl::StatusOr<std::unique_ptr<DistillKernels>> CreateDistillKernels(Backend* backend,
                                                                     int threads) {
  if (backend->name() == "cpu" || backend->name() == "ref")
    return cpu::CreateCpuDistillKernels(threads);
  if (backend->name() == "cuda") return CreateCudaDistillKernels(backend);
  return Unimplemented("the ", backend->name(), " backend has no training kernels");
}

absl::Status CheckDistillLimits(const DistillLimits& limits, int32_t q_heads, int32_t rows,
                                const char* option) {
  if (q_heads > limits.q_heads) {
    return InvalidArgument("the model has ", q_heads,
                           " query heads; training on this device takes at most ", limits.q_heads,
                           " (--backend cpu takes any)");
  }
  if (rows > limits.rows) {
    return InvalidArgument(option, " must be at most ", limits.rows, " on this device, got ", rows);
  }
  return absl::OkStatus();
}

}  // namespace spotd::kernels
