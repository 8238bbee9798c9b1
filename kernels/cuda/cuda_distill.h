// Selector training on the GPU (kernels/distill.h).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/distill.h"

namespace spotd::kernels {

// `backend` is one that CreateCudaBackend made. FAILED_PRECONDITION in a build without CUDA.
absl::StatusOr<std::unique_ptr<DistillKernels>> CreateCudaDistillKernels(Backend* backend);

}  // namespace spotd::kernels
