// CUDA errors as absl::Status. Included by the host-compiled files only.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "absl/status/status.h"
#include "kernels/core/status.h"

namespace spotd::kernels::cuda {

// RESOURCE_EXHAUSTED for memory, UNAVAILABLE for a device that is gone or must be reset, INTERNAL
// otherwise. A sticky error is not cleared by this.
inline absl::Status ToStatus(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      Concat(what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(message);
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorNoDevice:
      return absl::UnavailableError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace spotd::kernels::cuda
