// Launching with programmatic dependent launch where the device has it.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

// Percent of an SM's memory that is shared rather than L1 cache, the same for every kernel: an SM
// that changes the division must first run empty, which costs more than most kernels of a decode
// step. Attention slows down where the L1 cache gets less than this leaves it.
inline constexpr int kCarveout = 60;

// `kernel` must call WaitForPrevious (device.cuh): with dependent launch it may start before its
// predecessor has ended. Clusters of `members` thread blocks need sm_90.
template <typename... Params, typename... Args>
cudaError_t LaunchCluster(const LaunchContext& ctx, void (*kernel)(Params...), dim3 grid,
                          dim3 block, size_t shared_bytes, int members, Args... args) {
  // Its failure would cost time, not results.
  cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, kCarveout);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(members);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = ctx.stream;
  config.attrs = attributes;
  config.numAttrs = ctx.hopper ? (members > 1 ? 2 : 1) : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

template <typename... Params, typename... Args>
cudaError_t Launch(const LaunchContext& ctx, void (*kernel)(Params...), dim3 grid, dim3 block,
                   size_t shared_bytes, Args... args) {
  return LaunchCluster(ctx, kernel, grid, block, shared_bytes, 1, args...);
}

inline int CeilDiv(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

}  // namespace spotd::kernels::cuda
