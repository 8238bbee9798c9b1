// Selection by clusters of thread blocks, on sm_90; select.cu decides where.
#pragma once

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

// Whether rows of up to `blocks` blocks fit; where they do not, nothing else is promised.
bool SelectFitsCluster(const LaunchContext& ctx, int blocks);
cudaError_t LaunchSelectCluster(const LaunchContext& ctx, const SelectArgs& args);

}  // namespace spotd::kernels::cuda
