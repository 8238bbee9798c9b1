// Selection by clusters of thread blocks, on sm_90; select.cu decides where.
#pragma once

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

inline constexpr int kMaxClusterBlocks = 1 << 16;  // of a row

cudaError_t LaunchSelectCluster(const LaunchContext& ctx, const SelectArgs& args);

}  // namespace spotd::kernels::cuda
