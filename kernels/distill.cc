#include "kernels/distill.h"

#include "kernels/backend.h"
#include "kernels/core/status.h"
#include "kernels/cpu/distill.h"

namespace spotd::kernels {

absl::StatusOr<std::unique_ptr<DistillKernels>> CreateDistillKernels(Backend* backend,
                                                                     int threads) {
  if (backend->name() == "cpu" || backend->name() == "ref")
    return cpu::CreateCpuDistillKernels(threads);
  return Unimplemented("the ", backend->name(),
                       " backend has no training kernels; use --backend cpu");
}

}  // namespace spotd::kernels
