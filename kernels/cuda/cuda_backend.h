// The CUDA backend: one NVIDIA GPU of compute capability 8.0 or later.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace spotd::kernels {

// Opens device 0 of the process. FAILED_PRECONDITION, saying what is missing, without a CUDA build,
// driver, GPU or supported capability. Activations are bf16 (Backend::activation_bytes() is 2);
// weights of every type are held as bf16.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend();

// True where CreateCudaBackend is likely to succeed; cheap, creates nothing on the device.
bool CudaIsUsable();

}  // namespace spotd::kernels
