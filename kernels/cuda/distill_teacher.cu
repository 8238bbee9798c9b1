// The teacher of selector training, p_t = the weighted mean over query heads of the attention
// probabilities (kernels/distill.h), for 16 queries of one sequence a thread block. Scores are
// computed twice on the tensor cores, once for each head's log-sum-exp and once for the mean, so
// that only p_t itself is ever stored.
//
// Keys are the rows of the products and go from the cache straight into fragments, as in linear.cu:
// the order of the summed index is free as long as keys and queries agree.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill_limits.h"
#include "kernels/cuda/distill_stages.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = kTeacherWarps;
constexpr int kThreads = kWarps * 32;
constexpr int kQueries = kTeacherQueries;  // two column tiles of 8
constexpr int kKeys = 16;                  // of a step of a warp; divides every block size

// A running log2-sum-exp2.
struct Sum {
  float max;
  float sum;
  __device__ void Add(Sum other) {
    const float top = fmaxf(max, other.max);
    if (top == -INFINITY) return;
    sum = sum * Exp2(max - top) + other.sum * Exp2(other.max - top);
    max = top;
  }
};

// What a lane needs to know of the block's queries. Column tile i holds queries 8i .. 8i + 7.
struct Lane {
  int g;
  int t;
  int sequence;
  const Bf16x* q[2];  // query 8i + g of head 0; null past the last
  int limit[2][2];    // last visible key of query 8i + 2t + {0, 1}; -1 past the last
};

__device__ Lane MakeLane(const DistillArgs& args, int sequence, int first) {
  Lane lane;
  lane.g = threadIdx.x % 32 / 4;
  lane.t = threadIdx.x % 4;
  lane.sequence = sequence;
  const int* rows = args.queries + int64_t{sequence} * args.num_queries;
  const int64_t width = int64_t{args.q_heads} * args.layer.head_dim;
  for (int i = 0; i < 2; ++i) {
    const int own = first + 8 * i + lane.g;
    lane.q[i] = own < args.num_queries ? static_cast<const Bf16x*>(args.q) +
                                             (int64_t{sequence} * args.rows + rows[own]) * width
                                       : nullptr;
    for (int j = 0; j < 2; ++j) {
      const int query = first + 8 * i + 2 * lane.t + j;
      lane.limit[i][j] = query < args.num_queries ? rows[query] : -1;
    }
  }
  return lane;
}

// Scores of 16 keys from `first_key` against the block's queries, in units of log2; -inf where the
// query does not see the key. scores[i][e]: key g + 8 (e / 2), query 8i + 2t + e % 2.
__device__ void Scores(const DistillArgs& args, const Lane& lane, int head, int first_key,
                       float (&scores)[2][4]) {
  const KvLayer& layer = args.layer;
  const int kv_head = head / (args.q_heads / layer.kv_heads);
  const int64_t head_elements = int64_t{layer.block_tokens} * layer.head_dim;
  const int64_t physical =
      args.block_table[int64_t{lane.sequence} * args.table_stride + first_key / layer.block_tokens];
  const Bf16x* keys = static_cast<const Bf16x*>(layer.kv) +
                      (physical * 2 * layer.kv_heads + kv_head) * head_elements +
                      int64_t{first_key % layer.block_tokens + lane.g} * layer.head_dim;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    for (int e = 0; e < 4; ++e) scores[i][e] = 0;
  }
  for (int at = 8 * lane.t; at - 8 * lane.t < layer.head_dim; at += 32) {
    const bool inside = at < layer.head_dim;
    const uint4 zero = {0, 0, 0, 0};
    const uint4 low = inside ? *reinterpret_cast<const uint4*>(keys + at) : zero;
    const uint4 high =
        inside ? *reinterpret_cast<const uint4*>(keys + 8 * layer.head_dim + at) : zero;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 q = inside && lane.q[i] != nullptr
                          ? *reinterpret_cast<const uint4*>(lane.q[i] + head * layer.head_dim + at)
                          : zero;
      MmaBf16(scores[i], low.x, high.x, low.y, high.y, q.x, q.y);
      MmaBf16(scores[i], low.z, high.z, low.w, high.w, q.z, q.w);
    }
  }
  const float scale = args.teacher_scale * kLog2E;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first_key + lane.g + e / 2 * 8;
      scores[i][e] = key <= lane.limit[i][e % 2] ? scores[i][e] * scale : -INFINITY;
    }
  }
}

// Whether `key` is in the residual of a query that sees keys up to `limit`.
__device__ bool IsResidual(const DistillArgs& args, int key, int limit) {
  return key >= args.sink_tokens && key <= limit - args.recency_tokens;
}

__device__ void AddPair(float first, float second, Sum* sum) {
  const float top = fmaxf(first, second);
  if (top != -INFINITY) sum->Add({top, Exp2(first - top) + Exp2(second - top)});
}

// This warp's part of one head's log-sum-exps, for the block's 16 queries, over all keys and over
// the residual, into all[16] and residual[16].
__device__ void SumHead(const DistillArgs& args, const Lane& lane, int head, int keys, Sum* all,
                        Sum* residual) {
  Sum sums[2][2][2];  // [all or residual][column tile][query of the lane]
  for (int i = 0; i < 8; ++i) sums[i / 4][i / 2 % 2][i % 2] = {-INFINITY, 0};
  for (int key = threadIdx.x / 32 * kKeys; key < keys; key += kWarps * kKeys) {
    float scores[2][4];
    Scores(args, lane, head, key, scores);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int own = key + lane.g;
        const bool first = IsResidual(args, own, lane.limit[i][j]);
        const bool second = IsResidual(args, own + 8, lane.limit[i][j]);
        AddPair(scores[i][j], scores[i][j + 2], &sums[0][i][j]);
        AddPair(first ? scores[i][j] : -INFINITY, second ? scores[i][j + 2] : -INFINITY,
                &sums[1][i][j]);
      }
    }
  }
#pragma unroll
  for (int part = 0; part < 8; ++part) {
    Sum& sum = sums[part / 4][part / 2 % 2][part % 2];
    for (int offset = 4; offset < 32; offset *= 2) {
      sum.Add({__shfl_xor_sync(kFullMask, sum.max, offset),
               __shfl_xor_sync(kFullMask, sum.sum, offset)});
    }
    const int query = 8 * (part / 2 % 2) + 2 * lane.t + part % 2;
    if (lane.g == 0) (part < 4 ? all : residual)[query] = sum;
  }
}

// The warps' parts of a sum, as a log2.
__device__ float CombineParts(const Sum* parts, int stride) {
  Sum total = {-INFINITY, 0};
  for (int w = 0; w < kWarps; ++w) total.Add(parts[w * stride]);
  return total.max + __log2f(total.sum);
}

// The weight of each of a group's `heads` within the residual of one query, the heads' mean
// included: lse and residual_lse are [heads, kQueries], from this query's first; the latter is
// replaced. Returns their residual mass, summed.
__device__ float WeighHeads(const DistillArgs& args, int heads, const float* lse,
                            float* residual_lse) {
  float mass = 0;
  float weighted = 0;
  for (int head = 0; head < heads; ++head) {
    const float own = exp2f(residual_lse[head * kQueries] - lse[head * kQueries]);
    const float weight = own > 0.0f ? powf(own, args.teacher_power) : 0.0f;
    mass += own;
    weighted += weight * own;
    residual_lse[head * kQueries] = weight;
  }
  const float factor = weighted > 0.0f ? mass / weighted / heads : 0.0f;
  for (int head = 0; head < heads; ++head) residual_lse[head * kQueries] *= factor;
  return mass;
}

// The same for all groups of one query, and what each group's residual term counts for: shares
// [groups].
__device__ void WeighGroups(const DistillArgs& args, const float* lse, float* residual_lse,
                            float* shares) {
  const int heads = args.q_heads / args.groups;
  float total = 0;
  for (int group = 0; group < args.groups; ++group) {
    const int at = group * heads * kQueries;
    const float mass = WeighHeads(args, heads, lse + at, residual_lse + at);
    total += shares[group] = powf(mass, args.group_power);
  }
  for (int group = 0; group < args.groups; ++group)
    shares[group] = total > 0.0f ? shares[group] / total : 1.0f / args.groups;
}

// p_t of one group for 16 keys from `key`, of the block's queries, of which `first` is the first.
__device__ void WriteMean(const DistillArgs& args, const DistillScratch& s, const Lane& lane,
                          int group, int first, int key, const float* lse, const float* weights) {
  const int heads = args.q_heads / args.groups;
  const float share = 1.0f / static_cast<float>(heads);
  float mean[2][4] = {};
  for (int head = group * heads; head < (group + 1) * heads; ++head) {
    float scores[2][4];
    Scores(args, lane, head, key, scores);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (scores[i][e] == -INFINITY) continue;
        const int own = head * kQueries + 8 * i + 2 * lane.t + e % 2;
        const bool weighed = IsResidual(args, key + lane.g + e / 2 * 8, lane.limit[i][e % 2]);
        mean[i][e] += Exp2(scores[i][e] - lse[own]) * (weighed ? weights[own] : share);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = key + lane.g + e / 2 * 8;
      const int query = first + 8 * i + 2 * lane.t + e % 2;
      if (at > lane.limit[i][e % 2]) continue;
      const int64_t row = int64_t{lane.sequence} * args.num_queries + query;
      s.teacher[(row * args.groups + group) * s.stride + at] = mean[i][e];
    }
  }
}

__global__ void __launch_bounds__(kThreads) TeacherKernel(DistillArgs args, DistillScratch s) {
  extern __shared__ Sum shared[];
  const int apart = min(args.q_heads, kTeacherHeads);
  Sum* all = shared;  // [apart, kWarps, kQueries]
  Sum* residual = all + apart * kWarps * kQueries;
  float* lse =
      reinterpret_cast<float*>(residual + apart * kWarps * kQueries);  // [q_heads, kQueries]
  float* weights = lse + args.q_heads * kQueries;
  const int first = blockIdx.x * kQueries;
  const int last = min(first + kQueries, args.num_queries) - 1;
  const int keys = args.queries[int64_t{blockIdx.y} * args.num_queries + last] + 1;
  const Lane lane = MakeLane(args, blockIdx.y, first);
  const int warp = threadIdx.x / 32;
  for (int head = 0; head < args.q_heads; head += apart) {
    const int heads = min(apart, args.q_heads - head);
    for (int i = 0; i < heads; ++i) {
      const int at = (i * kWarps + warp) * kQueries;
      SumHead(args, lane, head + i, keys, all + at, residual + at);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * kQueries; i += kThreads) {
      const int at = i / kQueries * kWarps * kQueries + i % kQueries;
      lse[head * kQueries + i] = CombineParts(all + at, kQueries);
      weights[head * kQueries + i] = CombineParts(residual + at, kQueries);
    }
    __syncthreads();
  }
  if (threadIdx.x < kQueries && first + threadIdx.x < args.num_queries) {
    const int64_t query = int64_t{blockIdx.y} * args.num_queries + first + threadIdx.x;
    WeighGroups(args, lse + threadIdx.x, weights + threadIdx.x,
                s.residual_share + query * args.groups);
  }
  __syncthreads();

  for (int key = warp * kKeys; key < keys; key += kWarps * kKeys) {
    for (int group = 0; group < args.groups; ++group) {
      WriteMean(args, s, lane, group, first, key, lse, weights);
    }
  }
}

}  // namespace

cudaError_t LaunchTeacher(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  if (args.layer.head_dim % 8 != 0 || args.layer.block_tokens % kKeys != 0) {
    return cudaErrorInvalidValue;
  }
  static_assert(sizeof(Sum) == 2 * sizeof(float), "as TeacherSharedBytes counts");
  const size_t shared = TeacherSharedBytes(args.q_heads);
  const cudaError_t error = cudaFuncSetAttribute(
      TeacherKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  const dim3 grid((args.num_queries + kQueries - 1) / kQueries, args.sequences);
  TeacherKernel<<<grid, kThreads, shared, stream>>>(args, s);
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
