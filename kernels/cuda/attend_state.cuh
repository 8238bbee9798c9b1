// The running softmax of decode attention (attend_decode.cu) and how its pieces merge: lanes,
// warps, splits. Sums and maxima are in the log2 domain; an empty piece has maximum -inf.
#pragma once

#include "kernels/cuda/paged.cuh"

namespace spotd::kernels::cuda {

inline constexpr int kAttendWarps = 4;
inline constexpr int kAttendThreads = kAttendWarps * 32;
inline constexpr int kMergeThreads = 256;

// Partial result of one split and head: max and sum in the log2 domain, then head_dim unnormalised
// outputs.
inline constexpr int kPartialHeader = 4;  // floats, so that the outputs stay 16-byte aligned

// One warp's running softmax over the tiles it has seen. Heads: group member g, and g + 8 when
// kHeadTiles is 2.
template <int kDim, int kHeadTiles>
struct WarpState {
  float max[kHeadTiles];  // of head g (+ 8), log2 domain
  float sum[kHeadTiles];  // this lane's part
  float out[kHeadTiles][kDim / 16]
           [4];  // heads 2t, 2t + 1 at the dims of SlotDim(i) and SlotDim(i + kDim / 16)
};

// Output dim of slot i: lane g owns dims 8g .. 8g + 7 of every 64.
__device__ inline int SlotDim(int slot, int g) {
  return slot / 8 * 64 + 8 * g + slot % 8;
}

// Shared memory of the merge over a thread block's warps.
template <int kDim, int kHeadTiles>
struct MergeSpace {
  float max[kAttendWarps][kHeadTiles * 8];
  float sum[kAttendWarps][kHeadTiles * 8];
  float out[kAttendWarps][kHeadTiles * 8][kDim + 4];
};

template <int kDim, int kHeadTiles>
__device__ inline void WriteState(WarpState<kDim, kHeadTiles>& state,
                                  MergeSpace<kDim, kHeadTiles>& space) {
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < kHeadTiles; ++h) {
    float sum = state.sum[h];
    sum += __shfl_xor_sync(kFullMask, sum, 1);
    sum += __shfl_xor_sync(kFullMask, sum, 2);
    if (t == 0) {
      space.max[warp][h * 8 + g] = state.max[h];
      space.sum[warp][h * 8 + g] = sum;
    }
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        space.out[warp][h * 8 + 2 * t + j % 2][SlotDim(i + j / 2 * (kDim / 16), g)] =
            state.out[h][i][j];
      }
    }
  }
}

// Weight of a partial sum under the common maximum; an empty part has maximum -inf and weighs
// nothing.
__device__ inline float MergeFactor(float max, float common) {
  return max == -INFINITY ? 0.0f : Exp2(max - common);
}

// Normalises kCount (even) output dims of a head from `dim` on and writes them; dim 0 brings the
// log-sum-exp.
template <int kCount>
__device__ inline void WriteOutput(const AttendArgs& args, int row, int head, int dim,
                                   const float (&out)[kCount], float max, float sum) {
  const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
  auto* to = static_cast<Bf16x*>(args.out) +
             (int64_t{row} * args.q_heads + head) * args.layer.head_dim + dim;
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    reinterpret_cast<uint32_t*>(to)[i / 2] = PackBf16(out[i] * inverse, out[i + 1] * inverse);
  }
  if (dim == 0 && args.lse != nullptr) {
    args.lse[int64_t{row} * args.q_heads + head] =
        sum > 0 ? (max + __log2f(sum)) * kLn2 : -INFINITY;
  }
}

// Merges the warps; the result goes to the output, or to this split's partial when there are
// several.
template <int kDim, int kHeadTiles>
__device__ inline void MergeWarps(const AttendArgs& args, MergeSpace<kDim, kHeadTiles>& space,
                                  int row, int kv_head, int group, float* partial) {
  for (int item = threadIdx.x; item < group * kDim / 4; item += kAttendThreads) {
    const int h = item / (kDim / 4);
    const int dim = item % (kDim / 4) * 4;
    float max = -INFINITY;
    for (int w = 0; w < kAttendWarps; ++w) max = fmaxf(max, space.max[w][h]);
    float sum = 0;
    float out[4] = {};
    for (int w = 0; w < kAttendWarps; ++w) {
      const float factor = MergeFactor(space.max[w][h], max);
      sum += space.sum[w][h] * factor;
      const float4 part = *reinterpret_cast<const float4*>(&space.out[w][h][dim]);
      out[0] += part.x * factor;
      out[1] += part.y * factor;
      out[2] += part.z * factor;
      out[3] += part.w * factor;
    }
    if (partial == nullptr) {
      WriteOutput<4>(args, row, kv_head * group + h, dim, out, max, sum);
    } else {
      float* to = partial + h * (kPartialHeader + kDim);
      *reinterpret_cast<float4*>(to + kPartialHeader + dim) = {out[0], out[1], out[2], out[3]};
      if (dim == 0) *reinterpret_cast<float2*>(to) = {max, sum};
    }
  }
}

// Merges the splits of a head by a thread block of kMergeThreads: in parties of kDim / 4 threads,
// each with every so manieth split, then the parties in order. Everything is asked for at once: the
// merge is latency.
template <int kDim>
__device__ inline void MergeSplits(const AttendArgs& args, int row, int head, int splits,
                                   int64_t stride, const float* partials) {
  constexpr int kQuads = kDim / 4;
  constexpr int kParties = kMergeThreads / kQuads;
  constexpr int kHeld = 8;  // partial outputs in registers
  __shared__ float4 out_of[kParties][kQuads];
  __shared__ float sum_of[kParties];
  const int quad = threadIdx.x % kQuads;
  const int party = threadIdx.x / kQuads;
  float max = -INFINITY;
  for (int s = threadIdx.x % 32; s < splits; s += 32)
    max = fmaxf(max, __ldcg(partials + s * stride));
  float4 out = {0, 0, 0, 0};
  float sum = 0;
  for (int first = 0; first < splits; first += kHeld * kParties) {
    float4 part[kHeld];
    float2 header[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int s = first + i * kParties + party;
      const float* from = partials + s * stride;
      header[i] = s < splits ? __ldcg(reinterpret_cast<const float2*>(from)) : float2{-INFINITY, 0};
      part[i] = s < splits
                    ? __ldcg(reinterpret_cast<const float4*>(from + kPartialHeader + 4 * quad))
                    : float4{0, 0, 0, 0};
    }
    if (first == 0) max = WarpMax(max);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const float factor = MergeFactor(header[i].x, max);
      sum += factor * header[i].y;
      out.x += factor * part[i].x;
      out.y += factor * part[i].y;
      out.z += factor * part[i].z;
      out.w += factor * part[i].w;
    }
  }
  out_of[party][quad] = out;
  if (quad == 0) sum_of[party] = sum;
  __syncthreads();
  if (party != 0) return;
#pragma unroll
  for (int p = 1; p < kParties; ++p) {
    const float4 other = out_of[p][quad];
    out.x += other.x;
    out.y += other.y;
    out.z += other.z;
    out.w += other.w;
    sum += sum_of[p];
  }
  const float merged[4] = {out.x, out.y, out.z, out.w};
  WriteOutput<4>(args, row, head, 4 * quad, merged, max, sum);
}

}  // namespace spotd::kernels::cuda
