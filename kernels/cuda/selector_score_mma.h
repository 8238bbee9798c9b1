// The selector score of bf16 and fp4 keys (selector_score_mma.cu), for the launcher that picks a
// kernel by format.
#pragma once

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

// Whether the tensor-core kernel of bf16 and fp4 keys serves these shapes.
bool SelectorScoreIsMma(const SelectorScoreArgs& args);
cudaError_t LaunchSelectorScoreMma(const LaunchContext& ctx, const SelectorScoreArgs& args);

}  // namespace spotd::kernels::cuda
