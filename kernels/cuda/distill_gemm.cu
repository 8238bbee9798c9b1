// Small fp32 products for selector training: many of them, each far below a tensor-core tile, so
// that spreading one over enough thread blocks matters more than peak rate. A 32 x 32 tile by 64
// threads of 4 x 4 sums each.
#include "kernels/cuda/distill.h"

namespace spotd::kernels::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kDepth = 32;
constexpr int kThreads = 64;
constexpr int kPerThread = 4;
constexpr int kPad = 4;

// Copies the tile of op(matrix) whose "outer" index starts at `outer` and inner (k) index at
// `inner` into shared memory as [k][outer], zeros outside the matrix.
__device__ void LoadTile(const float* matrix, int ld, bool k_is_row, int outer, int outer_end,
                         int inner, int inner_end, float (*tile)[kTile + kPad]) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
    // Neighbouring threads read neighbouring addresses in either orientation.
    const int fast = i % 32;
    const int slow = i / 32;
    const int o = k_is_row ? fast : slow;
    const int k = k_is_row ? slow : fast;
    const bool inside = outer + o < outer_end && inner + k < inner_end;
    const int64_t at =
        k_is_row ? int64_t{inner + k} * ld + outer + o : int64_t{outer + o} * ld + inner + k;
    tile[k][o] = inside ? matrix[at] : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads) GemmKernel(GemmProblem p) {
  __shared__ float a_tile[kDepth][kTile + kPad];
  __shared__ float b_tile[kDepth][kTile + kPad];
  const int z = blockIdx.z;
  const float* a = p.a + z * p.stride_a;
  const float* b = p.b + (z / p.b_share) * p.stride_b;
  float* c = p.c + z * p.stride_c;
  const int row = blockIdx.y * kTile;
  const int column = blockIdx.x * kTile;
  const int my_row = threadIdx.x / 8 * kPerThread;
  const int my_column = threadIdx.x % 8 * kPerThread;
  float sums[kPerThread][kPerThread] = {};
  for (int k = 0; k < p.k; k += kDepth) {
    LoadTile(a, p.lda, p.transpose_a, row, p.m, k, p.k, a_tile);
    LoadTile(b, p.ldb, !p.transpose_b, column, p.n, k, p.k, b_tile);
    __syncthreads();
#pragma unroll 8
    for (int kk = 0; kk < kDepth; ++kk) {
      const float4 av = *reinterpret_cast<const float4*>(&a_tile[kk][my_row]);
      const float4 bv = *reinterpret_cast<const float4*>(&b_tile[kk][my_column]);
      const float as[4] = {av.x, av.y, av.z, av.w};
      const float bs[4] = {bv.x, bv.y, bv.z, bv.w};
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) sums[i][j] += as[i] * bs[j];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int r = row + my_row + i;
      const int n = column + my_column + j;
      if (r >= p.m || n >= p.n) continue;
      float* out = c + int64_t{r} * p.ldc + n;
      *out = p.alpha * sums[i][j] + (p.beta != 0.0f ? p.beta * *out : 0.0f);
    }
  }
}

}  // namespace

cudaError_t LaunchDistillGemm(cudaStream_t stream, const GemmProblem& problem) {
  const dim3 grid((problem.n + kTile - 1) / kTile, (problem.m + kTile - 1) / kTile, problem.batch);
  GemmKernel<<<grid, kThreads, 0, stream>>>(problem);
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
