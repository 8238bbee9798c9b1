// Selector training on the GPU: the stages of kernels/distill.h as launches. Plain structs, for
// host and device code.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/args.h"
#include "kernels/distill_args.h"

namespace spotd::kernels::cuda {

// Intermediate results in device memory; S = sequences, R = num_queries, L = rows, G =
// groups. A row of keys takes `stride` floats, L rounded up so that rows can be read in vectors.
struct DistillScratch {
  int32_t stride;
  uint16_t* x_queries;    // [S * R, hidden] bf16
  float* q;               // [S * R, heads, dim] after RoPE
  float* w;               // [S * R, G, heads]
  float* k_raw;           // [S * L, dim]
  float* k_rms;           // [S * L]
  float* k;               // [S * L, dim] after norm and RoPE
  float* dots;            // [S * R, heads, stride] q . k, then the gradient with respect to it
  float* d_scores;        // [S * R, G, stride] gradient of the student's scores
  float* teacher;         // [S * R, G, stride] p_t
  float* residual_share;  // [S * R, G] of the residual term; they sum to 1 over groups
  float* d_q;             // [S * R, heads, dim]
  float* d_w;             // [S * R, G, heads]
  float* d_k;             // [S * L, dim]
  float* partials;        // of sums that several blocks share
  double* query_stats;    // [S * R, kStatCount]
  double* stats;          // [kStatCount], summed over calls
};

// loss, kl, residual_kl, recalled_mass, believed_mass, queries.
inline constexpr int kStatCount = 6;

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
// c = op(a) op(b) for `batch` problems on the tensor cores, operands rounded to TF32; row-major; op
// is a transposition or nothing, not both transposed. Problem z uses a + z * stride_a, b + z *
// stride_b, c + z * stride_c. With splits > 1 (and batch 1) the summed index is cut into as many
// parts, whose sums go to c + part * stride_c: see LaunchAddPartials. Sums in a fixed order:
// results are reproducible.
struct GemmProblem {
  const void* a;
  const void* b;
  float* c;
  int32_t m, n, k;
  int32_t lda, ldb, ldc;
  bool transpose_a, transpose_b;
  bool a_is_bf16 = false, b_is_bf16 = false;  // at most one; else float
  int32_t batch = 1;
  int32_t splits = 1;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  bool a_vectors = false, b_vectors = false;  // set by the launch
};
cudaError_t LaunchDistillGemm(cudaStream_t stream, const GemmProblem& problem);
// How many parts a product with few output tiles and a long sum is best cut into.
int SplitsFor(int m, int n, int k);
// out[i] += the sum over parts of partials[part * count + i].
cudaError_t LaunchAddPartials(cudaStream_t stream, const float* partials, int parts, int64_t count,
                              float* out);

}  // namespace spotd::kernels::cuda
