// The stages of selector training that are not matrix products. One thread block per query or per
// row throughout; sums in a fixed order, so that a resumed run repeats an uninterrupted one bit for
// bit.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/distill.h"

namespace spotd::kernels::cuda {

// --- distill_prepare.cu ---
// x, x_queries, teacher_q and teacher_k in fp32 from the model's bf16 buffers and paged cache.
cudaError_t LaunchGather(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);
// k = RoPE(RMSNorm(k_raw)), k_rms; q = RoPE(q) in place.
cudaError_t LaunchNormRope(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);
// d_q and d_k back through RoPE; d_k back through the norm; gradients of k_norm.
cudaError_t LaunchNormRopeBackward(cudaStream_t stream, const DistillArgs& args,
                                   const DistillScratch& s);

// --- distill_loss.cu ---
// teacher logits [q_heads, R, L] -> p_t in the first [R, L].
cudaError_t LaunchTeacherMean(cudaStream_t stream, const DistillArgs& args,
                              const DistillScratch& s);
// dots -> scores.
cudaError_t LaunchMixHeads(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);
// scores -> d scores; figures added to s.stats.
cudaError_t LaunchLoss(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);
// d scores -> d_w, and dots -> d dots.
cudaError_t LaunchMixHeadsBackward(cudaStream_t stream, const DistillArgs& args,
                                   const DistillScratch& s);

}  // namespace spotd::kernels::cuda
