// Selector training on the GPU: the stages of kernels/distill.h as launches. Plain structs, for
// host and device code.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/args.h"
#include "kernels/distill_args.h"

namespace spotd::kernels::cuda {

// Intermediate results in device memory; R = num_queries, L = rows. All fp32.
struct DistillScratch {
  float* x_queries;     // [R, hidden]
  float* x;             // [L, hidden]
  float* q;             // [R, heads, dim] after RoPE
  float* w;             // [R, heads]
  float* k_raw;         // [L, dim]
  float* k_rms;         // [L]
  float* k;             // [L, dim] after norm and RoPE
  float* dots;          // [heads, R, L] q . k, then the gradient with respect to it
  float* scores;        // [R, L] student scores, then their gradient
  float* teacher;       // [q_heads, R, L] logits; the first [R, L] becomes p_t
  float* teacher_q;     // [q_heads, R, head_dim]
  float* teacher_k;     // [kv_heads, L, head_dim]
  float* d_q;           // [R, heads, dim]
  float* d_w;           // [R, heads]
  float* d_k;           // [L, dim]
  double* query_stats;  // [R, kStatCount]
  double* stats;        // [kStatCount], summed over calls
};

// loss, kl, residual_kl, recalled_mass, queries.
inline constexpr int kStatCount = 5;

// Bytes of one allocation that `Carve` cuts into the buffers above (stats apart).
size_t DistillScratchBytes(const DistillArgs& args);
DistillScratch CarveDistillScratch(const DistillArgs& args, void* memory, double* stats);

// Enqueues all stages of one DistillArgs.
cudaError_t LaunchDistill(cudaStream_t stream, const DistillArgs& args,
                          const DistillScratch& scratch);
// out[0] = sum of squares; `partials` holds kSumPartials doubles.
inline constexpr int kSumPartials = 256;
cudaError_t LaunchSumOfSquares(cudaStream_t stream, const float* values, int64_t count,
                               double* partials, double* out);
cudaError_t LaunchAdamW(cudaStream_t stream, const AdamWArgs& args, float correction1,
                        float correction2);

// --- distill_gemm.cu ---
// c = alpha * op(a) op(b) + beta * c for `batch` problems; row-major; op is a transposition or
// nothing. Problem z uses a + z * stride_a, b + (z / b_share) * stride_b, c + z * stride_c. Sums in
// a fixed order: results are reproducible.
struct GemmProblem {
  const float* a;
  const float* b;
  float* c;
  int32_t m, n, k;
  int32_t lda, ldb, ldc;
  bool transpose_a, transpose_b;
  float alpha, beta;
  int32_t batch = 1;
  int32_t b_share = 1;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;
};
cudaError_t LaunchDistillGemm(cudaStream_t stream, const GemmProblem& problem);

}  // namespace spotd::kernels::cuda
