// The stream a CUDA backend issues its work on, for code that must run in order with it.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/backend.h"

namespace spotd::kernels::cuda {

// `backend` is one that CreateCudaBackend made; the stream lives as long as it.
cudaStream_t StreamOf(Backend* backend);

}  // namespace spotd::kernels::cuda
