// Products for up to 16 rows of inputs that divide evenly (in_dim a multiple of 1024): where most
// of a decode step's time goes.
#pragma once

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

// Whether LaunchLinearEven takes it; LinearKernel (linear.cu) gives the same bits.
bool LinearIsEven(const LinearLaunch& launch);
// `strips`: of all segments, whose first_strip are filled.
cudaError_t LaunchLinearEven(const LaunchContext& ctx, const LinearLaunch& launch, int strips);

}  // namespace spotd::kernels::cuda
