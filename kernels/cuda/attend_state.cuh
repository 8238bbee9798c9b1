// The running softmax of decode attention (attend_decode.cu) and how its pieces merge: lanes,
// warps, splits. Sums and maxima are in the log2 domain; an empty piece has maximum -inf.
#pragma once

#include "kernels/cuda/paged.cuh"

namespace spotd::kernels::cuda {

inline constexpr int kAttendWarps = 4;
inline constexpr int kAttendThreads = kAttendWarps * 32;

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

template <int kCount>
__device__ inline void LoadPartial(const float* from, float (&to)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(from + i));
      to[i] = v.x;
      to[i + 1] = v.y;
      to[i + 2] = v.z;
      to[i + 3] = v.w;
    }
  } else {
    const float2 v = __ldcg(reinterpret_cast<const float2*>(from));
    to[0] = v.x;
    to[1] = v.y;
  }
}

// Merges all splits of (row, KV head), in order: a warp per head, the lanes side by side over the
// dims. The partial outputs are asked for before their weights are known: the merge is latency.
template <int kDim>
__device__ inline void MergeSplits(const AttendArgs& args, int row, int kv_head, int group,
                                   int splits, const float* partials) {
  constexpr int kPerLane = kDim / 32;
  constexpr int kBatch = 64 / kPerLane;  // partial outputs in registers
  const int64_t stride = group * (kPartialHeader + kDim);
  const int lane = threadIdx.x % 32;
  for (int h = threadIdx.x / 32; h < group; h += kAttendWarps) {
    const float* from = partials + h * (kPartialHeader + kDim);
    const auto header_of = [&](int s) {
      return s < splits ? __ldcg(reinterpret_cast<const float2*>(from + s * stride))
                        : float2{-INFINITY, 0};
    };
    float2 header = header_of(lane);
    float max = header.x;
    for (int s = lane + 32; s < splits; s += 32) max = fmaxf(max, __ldcg(from + s * stride));
    float sum = 0;
    float out[kPerLane] = {};
    float factor = 0;
    for (int first = 0; first < splits; first += kBatch) {
      float part[kBatch][kPerLane];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const float* row_part =
            from + min(first + i, splits - 1) * stride + kPartialHeader + lane * kPerLane;
        LoadPartial(row_part, part[i]);
      }
      if (first % 32 == 0) {
        if (first == 0) {
          max = WarpMax(max);
        } else {
          header = header_of(first + lane);
        }
        factor = MergeFactor(header.x, max);
        sum += header.y * factor;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const float weight = __shfl_sync(kFullMask, factor, (first + i) % 32);
        if (first + i < splits) {
#pragma unroll
          for (int j = 0; j < kPerLane; ++j) out[j] += weight * part[i][j];
        }
      }
    }
    sum = WarpSum(sum);
    WriteOutput<kPerLane>(args, row, kv_head * group + h, lane * kPerLane, out, max, sum);
  }
}

}  // namespace spotd::kernels::cuda
