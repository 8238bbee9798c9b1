// What the kernels of linear.cu and linear_even.cu share: a thread block's strip of 16 outputs,
// from its weights' rows to its stored sums.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kStrip = 16;
constexpr int kChunk = 32;

__device__ inline const LinearSegment& FindSegment(const LinearLaunch& launch, int strip) {
  int s = launch.num_segments - 1;
  while (s > 0 && strip < launch.segments[s].first_strip) --s;
  return launch.segments[s];
}

__device__ inline void StoreOutput(const LinearSegment& segment, int64_t row, int out,
                                   float value) {
  if (segment.bias != nullptr) value += segment.bias[out];
  const int64_t at = row * segment.out_dim + out;
  switch (segment.kind) {
    case OutputKind::kSwiGlu:  // of two sums: StoreGated
      break;
    case OutputKind::kBf16:
      static_cast<Bf16x*>(segment.y)[at] = __float2bfloat16(value);
      break;
    case OutputKind::kFloat:
      static_cast<float*>(segment.y)[at] = value;
      break;
    case OutputKind::kFloatAccumulate:
      static_cast<float*>(segment.y)[at] += value;
      break;
  }
}

__device__ inline void StoreGated(const LinearSegment& segment, int64_t row, int out, float gate,
                                  float up) {
  const float rounded = __bfloat162float(__float2bfloat16(gate));
  static_cast<Bf16x*>(segment.y)[row * segment.out_dim + out] =
      __float2bfloat16(SwiGluOf(rounded, __bfloat162float(__float2bfloat16(up))));
}

// Row i of a strip's 16 weights; null beyond the last. A gated strip is 8 gates, then their ups.
__device__ inline const Bf16x* WeightRow(const LinearSegment& segment, int out0, int i,
                                         int in_dim) {
  const bool gated = segment.kind == OutputKind::kSwiGlu;
  const int out = out0 + (gated ? i % 8 : i);
  const void* weight = gated && i >= 8 ? segment.up : segment.weight;
  return out < segment.out_dim ? static_cast<const Bf16x*>(weight) + int64_t{out} * in_dim
                               : nullptr;
}

// The warps' sums of a strip: [warp, output, row].
template <int kRowTiles>
using StripSums = float[kWarps][kStrip][kRowTiles * 8 + 1];

// Adds up the warps' sums, `acc` of each (tiles of 16 outputs x 8 rows), and stores them.
template <int kRowTiles>
__device__ inline void StoreStrip(const LinearLaunch& launch, const LinearSegment& segment,
                                  int out0, int row0, const float (&acc)[kRowTiles][4],
                                  StripSums<kRowTiles>& partial) {
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const bool gated = segment.kind == OutputKind::kSwiGlu;
  const int outs = gated ? kStrip / 2 : kStrip;
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    partial[warp][g][n * 8 + 2 * t] = acc[n][0];
    partial[warp][g][n * 8 + 2 * t + 1] = acc[n][1];
    partial[warp][g + 8][n * 8 + 2 * t] = acc[n][2];
    partial[warp][g + 8][n * 8 + 2 * t + 1] = acc[n][3];
  }
  __syncthreads();
  const auto sum_of = [&](int i, int row) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w][i][row];
    return sum;
  };
  for (int i = threadIdx.x; i < outs * kRowTiles * 8; i += kWarps * 32) {
    const int out = i % outs;
    const int row = i / outs;
    if (out0 + out >= segment.out_dim || row0 + row >= launch.rows) continue;
    if (gated) {
      StoreGated(segment, row0 + row, out0 + out, sum_of(out, row), sum_of(out + 8, row));
    } else {
      StoreOutput(segment, row0 + row, out0 + out, sum_of(out, row));
    }
  }
}

// Weights arrive fastest in few streams that are spread evenly, and a thread block that starts
// early goes where there is room: so an SM is held to as few thread blocks as take the grid at
// once, or to three, by shared memory that nobody uses beside the kernel's own.
inline int StripsPerSm(const LaunchContext& ctx, int blocks) {
  if (blocks <= 2 * ctx.sm_count) return 2;
  return blocks > 3 * ctx.sm_count && blocks <= 4 * ctx.sm_count ? 4 : 3;
}
inline int SharedToLimit(const LaunchContext& ctx, int strips_per_sm, int own_bytes) {
  constexpr int kTwo = 54608;
  constexpr int kThree = 44608;
  if (!ctx.hopper || strips_per_sm == 4) return 0;
  const int each = strips_per_sm == 2 ? kTwo : kThree;
  return each > own_bytes ? each - own_bytes : 0;
}

}  // namespace
}  // namespace spotd::kernels::cuda
