// y = x W^T for few rows: a stream over the weights.
//
// A warp owns a strip of 16 outputs and an eighth of the inputs; both operands go straight from
// global memory to the tensor-core fragments. That works without shared memory because the order of
// the summed index is free as long as weights and inputs agree: lane (g, t) loads 16 contiguous
// bytes, inputs [8t, 8t + 8) of a 32-wide chunk, and calls them the fragment's k = {2t, 2t + 1, 2t
// + 8, 2t + 9} of two instructions. The split over warps depends on in_dim alone, so a row's
// arithmetic is the same whatever the number of rows.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_even.h"
#include "kernels/cuda/linear_strip.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kUnroll = 4;
constexpr int kMaxRowTiles = 8;

// Chunks [begin, end) of this warp's strip into acc: kRowTiles tiles of 16 outputs x 8 rows.
template <int kRowTiles>
__device__ inline void AccumulateStrip(const Bf16x* w0, const Bf16x* w1,
                                       const Bf16x* const (&x)[kRowTiles], int in_dim, int begin,
                                       int end, float (&acc)[kRowTiles][4], uint4 (&wa)[kUnroll],
                                       uint4 (&wb)[kUnroll], bool primed) {
  const int t = threadIdx.x % 4;
  for (int c = begin; c < end; c += kUnroll) {
    if (!primed) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int k = (c + u) * kChunk + 8 * t;
        const bool inside = c + u < end && k < in_dim;
        wa[u] = inside && w0 != nullptr ? LoadWeights16(w0 + k) : uint4{0, 0, 0, 0};
        wb[u] = inside && w1 != nullptr ? LoadWeights16(w1 + k) : uint4{0, 0, 0, 0};
      }
    }
    primed = false;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int k = (c + u) * kChunk + 8 * t;
      const bool inside = c + u < end && k < in_dim;
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        const uint4 b = inside && x[n] != nullptr ? *reinterpret_cast<const uint4*>(x[n] + k)
                                                  : uint4{0, 0, 0, 0};
        MmaBf16(acc[n], wa[u].x, wb[u].x, wa[u].y, wb[u].y, b.x, b.y);
        MmaBf16(acc[n], wa[u].z, wb[u].z, wa[u].w, wb[u].w, b.z, b.w);
      }
    }
  }
}

template <int kRowTiles>
__global__ __launch_bounds__(kWarps * 32, kRowTiles == 1 ? 4 : 1) void LinearKernel(
    const __grid_constant__ LinearLaunch launch) {
  __shared__ StripSums<kRowTiles> partial;
  AllowNext();
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const LinearSegment& segment = FindSegment(launch, blockIdx.x);
  const bool gated = segment.kind == OutputKind::kSwiGlu;
  const int outs = gated ? kStrip / 2 : kStrip;
  const int out0 = (static_cast<int>(blockIdx.x) - segment.first_strip) * outs;
  const int row0 = blockIdx.y * kRowTiles * 8;
  const int in_dim = launch.in_dim;

  const Bf16x* w0 = WeightRow(segment, out0, g, in_dim);
  const Bf16x* w1 = WeightRow(segment, out0, g + 8, in_dim);
  const Bf16x* x[kRowTiles];
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const int row = row0 + n * 8 + g;
    x[n] =
        row < launch.rows ? static_cast<const Bf16x*>(launch.x) + int64_t{row} * in_dim : nullptr;
  }

  const int chunks = (in_dim + kChunk - 1) / kChunk;
  const int per_warp = (chunks + kWarps - 1) / kWarps;
  const int begin = warp * per_warp;
  const int end = min(chunks, begin + per_warp);
  float acc[kRowTiles][4] = {};
  uint4 wa[kUnroll];
  uint4 wb[kUnroll];
  // The first weights may fly while the previous kernel is still writing x.
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int k = (begin + u) * kChunk + 8 * t;
    const bool inside = begin + u < end && k < in_dim;
    wa[u] = inside && w0 != nullptr ? LoadWeights16(w0 + k) : uint4{0, 0, 0, 0};
    wb[u] = inside && w1 != nullptr ? LoadWeights16(w1 + k) : uint4{0, 0, 0, 0};
  }
  WaitForPrevious();
  AccumulateStrip<kRowTiles>(w0, w1, x, in_dim, begin, end, acc, wa, wb, true);
  StoreStrip<kRowTiles>(launch, segment, out0, row0, acc, partial);
}

// Any in_dim: one warp per output and row.
__global__ void LinearAnyKernel(const __grid_constant__ LinearLaunch launch) {
  AllowNext();
  WaitForPrevious();
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.y;
  const LinearSegment& segment = FindSegment(launch, blockIdx.x);
  const auto* x = static_cast<const Bf16x*>(launch.x) + int64_t{row} * launch.in_dim;
  const int out0 = (static_cast<int>(blockIdx.x) - segment.first_strip) * kStrip;
  for (int out = out0 + static_cast<int>(threadIdx.x / 32);
       out < min(out0 + kStrip, segment.out_dim); out += kWarps) {
    const auto* w = static_cast<const Bf16x*>(segment.weight) + int64_t{out} * launch.in_dim;
    float sum = 0;
    for (int k = lane; k < launch.in_dim; k += 32)
      sum += __bfloat162float(w[k]) * __bfloat162float(x[k]);
    sum = WarpSum(sum);
    if (lane == 0) StoreOutput(segment, row, out, sum);
  }
}

template <int kRowTiles>
cudaError_t LaunchTiles(const LaunchContext& ctx, const LinearLaunch& launch, int strips) {
  const dim3 grid(strips, CeilDiv(launch.rows, kRowTiles * 8));
  const int bytes = SharedToLimit(ctx, StripsPerSm(ctx, strips * static_cast<int>(grid.y)),
                                  sizeof(StripSums<kRowTiles>));
  const cudaError_t error = cudaFuncSetAttribute(
      LinearKernel<kRowTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  return Launch(ctx, LinearKernel<kRowTiles>, grid, kWarps * 32, bytes, launch);
}

}  // namespace

bool LinearIsTiled(int32_t in_dim) {
  return in_dim % 8 == 0;
}

cudaError_t LaunchLinear(const LaunchContext& ctx, LinearLaunch launch) {
  int strips = 0;
  for (int s = 0; s < launch.num_segments; ++s) {
    launch.segments[s].first_strip = strips;
    const bool gated = launch.segments[s].kind == OutputKind::kSwiGlu;
    strips += CeilDiv(launch.segments[s].out_dim, gated ? kStrip / 2 : kStrip);
  }
  if (!LinearIsTiled(launch.in_dim)) {
    return Launch(ctx, LinearAnyKernel, dim3(strips, launch.rows), kWarps * 32, 0, launch);
  }
  if (LinearIsEven(launch)) return LaunchLinearEven(ctx, launch, strips);
  if (launch.rows <= 8) return LaunchTiles<1>(ctx, launch, strips);
  if (launch.rows <= 16) return LaunchTiles<2>(ctx, launch, strips);
  if (launch.rows <= 32) return LaunchTiles<4>(ctx, launch, strips);
  return LaunchTiles<kMaxRowTiles>(ctx, launch, strips);
}

}  // namespace spotd::kernels::cuda
