// LinearKernel's arithmetic (linear.cu), in its order, where nothing is left over: every warp's
// inputs are whole pairs of groups of chunks, so that loads need no guards, and the registers that
// saves hold two groups. A group is asked for as soon as its predecessor in the same registers has
// been multiplied, while the other is on its way: a warp is never without weights in flight, as one
// is that asks for its next four chunks when it has used the last. The first two are on their way
// while the kernel before ends.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_even.h"
#include "kernels/cuda/linear_strip.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kMostRows = 16;
// Chunks of a group: the large ones take the registers of two thread blocks an SM.
constexpr int kSmall = 2;
constexpr int kLarge = 4;

template <int kChunks>
constexpr int kGroupDims = (kChunks * kChunk);

// 16 x kChunk weights of each chunk: outputs g and g + 8.
template <int kChunks>
struct Group {
  uint4 low[kChunks];
  uint4 high[kChunks];
};

// What a lane reads next.
template <int kRowTiles>
struct Cursor {
  const Bf16x* low;
  const Bf16x* high;
  const Bf16x* x[kRowTiles];
};

template <int kRowTiles, int kChunks>
__device__ inline void LoadGroup(Cursor<kRowTiles>& at, Group<kChunks>& group) {
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    group.low[i] = LoadWeights16(at.low + i * kChunk);
    group.high[i] = LoadWeights16(at.high + i * kChunk);
  }
  at.low += kGroupDims<kChunks>;
  at.high += kGroupDims<kChunks>;
}

template <int kRowTiles, int kChunks>
__device__ inline void MultiplyGroup(Cursor<kRowTiles>& at, const Group<kChunks>& group,
                                     float (&acc)[kRowTiles][4]) {
  uint4 x[kChunks][kRowTiles];
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      x[i][n] = *reinterpret_cast<const uint4*>(at.x[n] + i * kChunk);
    at.x[n] += kGroupDims<kChunks>;
  }
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const uint4 a = group.low[i];
    const uint4 b = group.high[i];
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      MmaBf16(acc[n], a.x, b.x, a.y, b.y, x[i][n].x, x[i][n].y);
      MmaBf16(acc[n], a.z, b.z, a.w, b.w, x[i][n].z, x[i][n].w);
    }
  }
}

// Rows and outputs beyond the last repeat others, and are not stored.
template <int kRowTiles>
__device__ inline Cursor<kRowTiles> CursorOf(const LinearLaunch& launch,
                                             const LinearSegment& segment, int out0) {
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const int first = warp * (launch.in_dim / kWarps) + 8 * t;
  const auto weights = [&](int i) {
    const Bf16x* row = WeightRow(segment, out0, i, launch.in_dim);
    return (row != nullptr ? row : static_cast<const Bf16x*>(segment.weight)) + first;
  };
  Cursor<kRowTiles> at = {weights(g), weights(g + 8), {}};
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const int row = min(n * 8 + g, launch.rows - 1);
    at.x[n] = static_cast<const Bf16x*>(launch.x) + int64_t{row} * launch.in_dim + first;
  }
  return at;
}

template <int kRowTiles, int kChunks, int kBlocksPerSm>
__global__ __launch_bounds__(kWarps * 32, kBlocksPerSm) void LinearEvenKernel(
    const __grid_constant__ LinearLaunch launch) {
  __shared__ StripSums<kRowTiles> partial;
  AllowNext();
  const LinearSegment& segment = FindSegment(launch, blockIdx.x);
  const int outs = segment.kind == OutputKind::kSwiGlu ? kStrip / 2 : kStrip;
  const int out0 = (static_cast<int>(blockIdx.x) - segment.first_strip) * outs;
  const int pairs = launch.in_dim / (kWarps * 2 * kGroupDims<kChunks>);
  Cursor<kRowTiles> at = CursorOf<kRowTiles>(launch, segment, out0);
  Group<kChunks> even;
  Group<kChunks> odd;
  LoadGroup(at, even);
  LoadGroup(at, odd);
  WaitForPrevious();
  float acc[kRowTiles][4] = {};
  for (int i = 1; i < pairs; ++i) {
    MultiplyGroup(at, even, acc);
    LoadGroup(at, even);
    MultiplyGroup(at, odd, acc);
    LoadGroup(at, odd);
  }
  MultiplyGroup(at, even, acc);
  MultiplyGroup(at, odd, acc);
  StoreStrip<kRowTiles>(launch, segment, out0, 0, acc, partial);
}

using Kernel = void (*)(LinearLaunch);

template <int kChunks>
bool Divides(int in_dim) {
  return in_dim % (kWarps * 2 * kGroupDims<kChunks>) == 0;
}

// A second tile of rows takes as many registers as large groups do.
Kernel KernelFor(int rows, int blocks_per_sm, int in_dim) {
  if (rows > 8) return LinearEvenKernel<2, kSmall, 2>;
  if (blocks_per_sm == 2 && Divides<kLarge>(in_dim)) return LinearEvenKernel<1, kLarge, 2>;
  return blocks_per_sm == 4 ? LinearEvenKernel<1, kSmall, 4> : LinearEvenKernel<1, kSmall, 3>;
}

}  // namespace

bool LinearIsEven(const LinearLaunch& launch) {
  return launch.rows <= kMostRows && Divides<kSmall>(launch.in_dim);
}

cudaError_t LaunchLinearEven(const LaunchContext& ctx, const LinearLaunch& launch, int strips) {
  const int blocks_per_sm = StripsPerSm(ctx, strips);
  const Kernel kernel = KernelFor(launch.rows, blocks_per_sm, launch.in_dim);
  const size_t own = launch.rows > 8 ? sizeof(StripSums<2>) : sizeof(StripSums<1>);
  const int bytes = SharedToLimit(ctx, blocks_per_sm, static_cast<int>(own));
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  return Launch(ctx, kernel, strips, kWarps * 32, bytes, launch);
}

}  // namespace spotd::kernels::cuda
