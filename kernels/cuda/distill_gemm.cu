// Small fp32 products for selector training: many of them, each far below a tensor-core tile, so
// that spreading one over the GPU matters more than peak rate. A block computes a 32 x 32 tile; its
// groups of 64 threads take turns along k, each summing 4 x 4 outputs a thread, and add up through
// shared memory in a fixed order.
#include <algorithm>

#include "kernels/cuda/distill.h"

namespace spotd::kernels::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kDepth = 16;
constexpr int kGroupThreads = 64;
constexpr int kPerThread = 4;
constexpr int kPad = 4;
constexpr int kLoads = kTile * kDepth / kGroupThreads;  // of each operand, a thread and step

using Tile = float[kDepth][kTile + kPad];

// Where this thread's i-th element of a tile lies: k and outer index. Neighbouring threads read
// neighbouring addresses in either orientation of the matrix.
struct Place {
  int k;
  int outer;
};
__device__ Place PlaceOf(int thread, int i, bool k_is_row) {
  const int index = thread + i * kGroupThreads;
  return k_is_row ? Place{index / kTile, index % kTile} : Place{index % kDepth, index / kDepth};
}

__device__ void LoadTile(const float* matrix, int ld, bool k_is_row, int outer, int outer_end,
                         int inner, int inner_end, int thread, float (&out)[kLoads]) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const Place place = PlaceOf(thread, i, k_is_row);
    const int o = outer + place.outer;
    const int k = inner + place.k;
    const int64_t at = k_is_row ? int64_t{k} * ld + o : int64_t{o} * ld + k;
    out[i] = o < outer_end && k < inner_end ? matrix[at] : 0.0f;
  }
}

__device__ void StoreTile(const float (&values)[kLoads], bool k_is_row, int thread, Tile& tile) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const Place place = PlaceOf(thread, i, k_is_row);
    tile[place.k][place.outer] = values[i];
  }
}

__device__ void MultiplyTiles(const Tile& a, const Tile& b, int row, int column,
                              float (&sums)[kPerThread][kPerThread]) {
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    const float4 av = *reinterpret_cast<const float4*>(&a[k][row]);
    const float4 bv = *reinterpret_cast<const float4*>(&b[k][column]);
    const float as[4] = {av.x, av.y, av.z, av.w};
    const float bs[4] = {bv.x, bv.y, bv.z, bv.w};
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) sums[i][j] += as[i] * bs[j];
    }
  }
}

template <int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads) GemmKernel(GemmProblem p) {
  __shared__ Tile a_tiles[kGroups];
  __shared__ Tile b_tiles[kGroups];
  static_assert(kGroupThreads * kPerThread * kPerThread == kTile * kTile);
  const int group = threadIdx.x / kGroupThreads;
  const int thread = threadIdx.x % kGroupThreads;
  const float* a = p.a + blockIdx.z * p.stride_a;
  const float* b = p.b + (blockIdx.z / p.b_share) * p.stride_b;
  const int row = blockIdx.y * kTile;
  const int column = blockIdx.x * kTile;
  const int my_row = thread / 8 * kPerThread;
  const int my_column = thread % 8 * kPerThread;
  float sums[kPerThread][kPerThread] = {};
  float a_next[kLoads];
  float b_next[kLoads];
  const auto load = [&](int k) {
    LoadTile(a, p.lda, p.transpose_a, row, p.m, k, p.k, thread, a_next);
    LoadTile(b, p.ldb, !p.transpose_b, column, p.n, k, p.k, thread, b_next);
  };
  load(group * kDepth);
  // Every group makes the same number of steps, so that all meet at the barriers; past the end it
  // adds zeros.
  for (int first = 0; first < p.k; first += kGroups * kDepth) {
    StoreTile(a_next, p.transpose_a, thread, a_tiles[group]);
    StoreTile(b_next, !p.transpose_b, thread, b_tiles[group]);
    __syncthreads();
    load(first + (kGroups + group) * kDepth);
    MultiplyTiles(a_tiles[group], b_tiles[group], my_row, my_column, sums);
    __syncthreads();
  }

  // The groups' sums, group by group, into shared memory that the tiles no longer need.
  float(*total)[kTile + 1] = reinterpret_cast<float(*)[kTile + 1]>(&a_tiles[0][0][0]);
  for (int turn = 0; turn < kGroups; ++turn) {
    if (group == turn) {
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) {
          float& cell = total[my_row + i][my_column + j];
          cell = turn == 0 ? sums[i][j] : cell + sums[i][j];
        }
      }
    }
    __syncthreads();
  }
  float* c = p.c + blockIdx.z * p.stride_c;
  for (int i = threadIdx.x; i < kTile * kTile; i += kGroups * kGroupThreads) {
    const int r = row + i / kTile;
    const int n = column + i % kTile;
    if (r >= p.m || n >= p.n) continue;
    float* out = c + int64_t{r} * p.ldc + n;
    *out = p.alpha * total[i / kTile][i % kTile] + (p.beta != 0.0f ? p.beta * *out : 0.0f);
  }
}

}  // namespace

cudaError_t LaunchDistillGemm(cudaStream_t stream, const GemmProblem& problem) {
  const dim3 grid((problem.n + kTile - 1) / kTile, (problem.m + kTile - 1) / kTile, problem.batch);
  if (problem.k <= 4 * kDepth) {
    GemmKernel<4><<<grid, 4 * kGroupThreads, 0, stream>>>(problem);
  } else {
    GemmKernel<8><<<grid, 8 * kGroupThreads, 0, stream>>>(problem);
  }
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
