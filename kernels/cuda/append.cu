// QK-norm, RoPE and the write of K and V to their blocks; then the min/max summaries of the blocks
// touched.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/paged.cuh"
#include "kernels/cuda/rope.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 4;

// 1 / rms of a head vector, over the warp.
__device__ inline float InverseRms(const Bf16x* x, int dim, float eps) {
  float sum = 0;
  for (int i = threadIdx.x % 32; i < dim; i += 32) {
    const float value = __bfloat162float(x[i]);
    sum += value * value;
  }
  return rsqrtf(WarpSum(sum) / static_cast<float>(dim) + eps);
}

// Norm (nullable), then RoPE, from x to `to`; they may be the same. A lane reads only what it
// writes.
__device__ inline void NormAndRotate(const Bf16x* x, const float* norm, const Rope& rope,
                                     const LaneTurns& turns, int dim, int position, float eps,
                                     Bf16x* to) {
  const int lane = threadIdx.x % 32;
  const float inverse = norm == nullptr ? 1.0f : InverseRms(x, dim, eps);
  const auto value = [&](int i) {
    const float scaled = __bfloat162float(x[i]) * inverse;
    return norm == nullptr ? scaled : scaled * norm[i];
  };
  const int half = rope.rotary_dim / 2;
  __syncwarp();
  ForEachPair(rope, turns, position, [&](int i, float2 turn) {
    const float2 turned = Turned(turn, value(i), value(i + half));
    to[i] = __float2bfloat16(turned.x);
    to[i + half] = __float2bfloat16(turned.y);
  });
  for (int i = rope.rotary_dim + lane; i < dim; i += 32) to[i] = __float2bfloat16(value(i));
}

__global__ void AppendKvKernel(const __grid_constant__ AppendKvArgs args) {
  AllowNext();
  const KvLayer& layer = args.layer;
  const int dim = layer.head_dim;
  const int row = blockIdx.x;
  const int head = blockIdx.y * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int heads = args.q_heads + 2 * layer.kv_heads;
  if (head >= heads) return;
  const int position = args.positions[row];
  const bool is_value = head >= args.q_heads + layer.kv_heads;
  const LaneTurns turns = is_value ? LaneTurns{} : MakeTurns(args.rope, position);
  if (head < args.q_heads) {
    Bf16x* q = static_cast<Bf16x*>(args.q) + (int64_t{row} * args.q_heads + head) * dim;
    WaitForPrevious();
    NormAndRotate(q, args.q_norm, args.rope, turns, dim, position, args.eps, q);
    return;
  }
  const int kv_head = (head - args.q_heads) % layer.kv_heads;
  const RowPlace place = FindRow(args.batch, row);
  const int physical = PhysicalBlock(args.batch, place.seq, place.token / layer.block_tokens);
  Bf16x* key = KeyRows(layer, physical, kv_head) + place.token % layer.block_tokens * dim;
  const int64_t from = (int64_t{row} * layer.kv_heads + kv_head) * dim;
  WaitForPrevious();
  if (!is_value) {
    NormAndRotate(static_cast<const Bf16x*>(args.k) + from, args.k_norm, args.rope, turns, dim,
                  position, args.eps, key);
  } else {
    const Bf16x* v = static_cast<const Bf16x*>(args.v) + from;
    Bf16x* value = key + ValueOffset(layer);
    for (int i = lane; i < dim; i += 32) value[i] = v[i];
  }
}

// A row whose token ends a block, or its sequence, recomputes that block's bounds from all the
// block's tokens.
__global__ void SummariseKernel(const __grid_constant__ AppendKvArgs args) {
  AllowNext();
  WaitForPrevious();
  const KvLayer& layer = args.layer;
  const int kv_head = blockIdx.y;
  const RowPlace place = FindRow(args.batch, blockIdx.x);
  const bool last_row = place.token + 1 == args.batch.kv_len[place.seq];
  if (!last_row && (place.token + 1) % layer.block_tokens != 0) return;
  const int physical = PhysicalBlock(args.batch, place.seq, place.token / layer.block_tokens);
  const Bf16x* keys = KeyRows(layer, physical, kv_head);
  Bf16x* bounds = SummaryRows(layer, physical, kv_head);
  const int tokens = place.token % layer.block_tokens + 1;
  for (int i = threadIdx.x; i < layer.head_dim; i += blockDim.x) {
    Bf16x low = keys[i];
    Bf16x high = low;
    for (int token = 1; token < tokens; ++token) {
      const Bf16x value = keys[token * layer.head_dim + i];
      low = __hmin(low, value);
      high = __hmax(high, value);
    }
    bounds[i] = low;
    bounds[layer.head_dim + i] = high;
  }
}

}  // namespace

cudaError_t LaunchAppendKv(const LaunchContext& ctx, const AppendKvArgs& args) {
  const int heads = args.q_heads + 2 * args.layer.kv_heads;
  const dim3 grid(args.batch.num_rows, CeilDiv(heads, kWarps));
  const cudaError_t error = Launch(ctx, AppendKvKernel, grid, kWarps * 32, 0, args);
  if (error != cudaSuccess || args.layer.summary == nullptr) return error;
  return Launch(ctx, SummariseKernel, dim3(args.batch.num_rows, args.layer.kv_heads), 128, 0, args);
}

}  // namespace spotd::kernels::cuda
