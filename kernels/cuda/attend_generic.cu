// Attention for shapes that the specialised kernels do not take: any head_dim up to 256, any block
// size, any group. One thread block per (row, query head); correctness, not speed.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/paged.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxPerLane = 8;

struct Problem {
  SequenceBatch batch;
  KvLayer layer;
  int32_t q_heads;
  float scale;
  const Bf16x* q;
  const int32_t* selected;  // null: every visible token
  const int32_t* counts;
  int32_t groups;
  int32_t selected_stride;
  bool decode;  // one row per sequence, row_start is not read
  Bf16x* out;
  float* lse;
};

struct LaneState {
  float max = -INFINITY;
  float sum = 0;
  float out[kMaxPerLane] = {};
};

// Folds one token into the warp's running softmax; lane i holds dims i, i + 32, ...
__device__ inline void AddToken(const Problem& p, const Bf16x* key, const float (&q)[kMaxPerLane],
                                LaneState& state) {
  const int lane = threadIdx.x % 32;
  const Bf16x* value = key + ValueOffset(p.layer);
  float score = 0;
#pragma unroll
  for (int i = 0; i < kMaxPerLane; ++i) {
    const int dim = lane + 32 * i;
    if (dim < p.layer.head_dim) score += q[i] * __bfloat162float(key[dim]);
  }
  score = WarpSum(score) * p.scale;
  const float max = fmaxf(state.max, score);
  const float keep = __expf(state.max - max);
  const float weight = __expf(score - max);
  state.max = max;
  state.sum = state.sum * keep + weight;
#pragma unroll
  for (int i = 0; i < kMaxPerLane; ++i) {
    const int dim = lane + 32 * i;
    if (dim < p.layer.head_dim)
      state.out[i] = state.out[i] * keep + weight * __bfloat162float(value[dim]);
  }
}

__global__ void AttendGenericKernel(const __grid_constant__ Problem p) {
  __shared__ float max[kWarps];
  __shared__ float sum[kWarps];
  __shared__ float out[kWarps][kMaxPerLane * 32];
  AllowNext();
  WaitForPrevious();
  const int row = blockIdx.x;
  const int head = blockIdx.y;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int kv_head = head / (p.q_heads / p.layer.kv_heads);
  const RowPlace place = p.decode ? RowPlace{row, p.batch.kv_len[row] - 1} : FindRow(p.batch, row);
  const int visible = place.token + 1;
  const int block_tokens = p.layer.block_tokens;
  const int64_t choice = int64_t{row} * p.groups + (p.groups == 1 ? 0 : kv_head);
  const int blocks =
      p.selected == nullptr ? (visible + block_tokens - 1) / block_tokens : p.counts[choice];

  float q[kMaxPerLane];
  const Bf16x* from = p.q + (int64_t{row} * p.q_heads + head) * p.layer.head_dim;
  for (int i = 0; i < kMaxPerLane; ++i) {
    q[i] = lane + 32 * i < p.layer.head_dim ? __bfloat162float(from[lane + 32 * i]) : 0.0f;
  }
  LaneState state;
  for (int slot = 0; slot < blocks; ++slot) {
    const int block = p.selected == nullptr ? slot : p.selected[choice * p.selected_stride + slot];
    const Bf16x* keys = KeyRows(p.layer, PhysicalBlock(p.batch, place.seq, block), kv_head);
    const int tokens = min(block_tokens, visible - block * block_tokens);
    for (int i = warp; i < tokens; i += kWarps) AddToken(p, keys + i * p.layer.head_dim, q, state);
  }
  if (lane == 0) {
    max[warp] = state.max;
    sum[warp] = state.sum;
  }
  for (int i = 0; i < kMaxPerLane; ++i) out[warp][lane + 32 * i] = state.out[i];
  __syncthreads();

  float top = -INFINITY;
  for (int w = 0; w < kWarps; ++w) top = fmaxf(top, max[w]);
  float total = 0;
  for (int w = 0; w < kWarps; ++w)
    total += max[w] == -INFINITY ? 0.0f : sum[w] * __expf(max[w] - top);
  Bf16x* to = p.out + (int64_t{row} * p.q_heads + head) * p.layer.head_dim;
  for (int dim = threadIdx.x; dim < p.layer.head_dim; dim += blockDim.x) {
    float value = 0;
    for (int w = 0; w < kWarps; ++w)
      value += max[w] == -INFINITY ? 0.0f : out[w][dim] * __expf(max[w] - top);
    to[dim] = __float2bfloat16(total > 0 ? value / total : 0.0f);
  }
  if (threadIdx.x == 0 && p.lse != nullptr) {
    p.lse[int64_t{row} * p.q_heads + head] = total > 0 ? top + __logf(total) : -INFINITY;
  }
}

}  // namespace

cudaError_t LaunchAttendGeneric(const LaunchContext& ctx, const AttendArgs& args) {
  const Problem problem = {args.batch,
                           args.layer,
                           args.q_heads,
                           args.scale,
                           static_cast<const Bf16x*>(args.q),
                           args.selected,
                           args.counts,
                           args.groups,
                           args.selected_stride,
                           true,
                           static_cast<Bf16x*>(args.out),
                           args.lse};
  return Launch(ctx, AttendGenericKernel, dim3(args.batch.num_seqs, args.q_heads), kWarps * 32, 0,
                problem);
}

cudaError_t LaunchPrefillAttendGeneric(const LaunchContext& ctx, const PrefillAttendArgs& args) {
  const Problem problem = {args.batch,
                           args.layer,
                           args.q_heads,
                           args.scale,
                           static_cast<const Bf16x*>(args.q),
                           nullptr,
                           nullptr,
                           1,
                           0,
                           false,
                           static_cast<Bf16x*>(args.out),
                           args.lse};
  return Launch(ctx, AttendGenericKernel, dim3(args.batch.num_rows, args.q_heads), kWarps * 32, 0,
                problem);
}

}  // namespace spotd::kernels::cuda
