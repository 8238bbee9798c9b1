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

}  // namespace spotd::kernels
