// Prefill attention on Hopper's own instructions (attend_prefill_sm90.cu).
#pragma once

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

// Whether the device and the shape suit the Hopper kernel: head_dim 128 and enough rows to fill its
// tiles.
bool PrefillSm90Takes(const LaunchContext& ctx, const PrefillAttendArgs& args);
cudaError_t LaunchPrefillSm90(const LaunchContext& ctx, const PrefillAttendArgs& args);

}  // namespace spotd::kernels::cuda
