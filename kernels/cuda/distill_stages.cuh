// The stages of selector training that are not matrix products. One thread block per query or per
// row throughout; sums in a fixed order, so that a resumed run repeats an uninterrupted one bit for
// bit.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/distill.h"

namespace spotd::kernels::cuda {

// --- distill_prepare.cu ---
// x_queries: the rows of x that ask.
cudaError_t LaunchGather(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);
// k = RoPE(RMSNorm(k_raw)), k_rms; q = RoPE(q) in place.
cudaError_t LaunchNormRope(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);
// d_q and d_k back through RoPE; d_k back through the norm; gradients of k_norm.
cudaError_t LaunchNormRopeBackward(cudaStream_t stream, const DistillArgs& args,
                                   const DistillScratch& s);
// Floats of scratch.partials that LaunchNormRopeBackward uses.
int64_t KNormPartials(const DistillArgs& args);

// --- distill_teacher.cu ---
// p_t. head_dim must be a multiple of 8, block_tokens of 16.
cudaError_t LaunchTeacher(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);

// --- distill_loss.cu ---
// From q . k and p_t to the loss, d_w and the gradient with respect to q . k (in place); figures
// added to s.stats.
cudaError_t LaunchLoss(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s);

}  // namespace spotd::kernels::cuda
