// Appending a step's rows to the caches: QK-norm, RoPE and the write of K and V to their blocks;
// the selector's query rotated in place, its key normalised, rotated, quantised and written; then
// the min/max summaries of the blocks touched. A warp takes one head vector.
#include "kernels/cuda/append_parts.cuh"
#include "kernels/cuda/launch.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 4;

// Thread blocks [0, kv_blocks) of a row take its heads, those after them the selector's parts.
__global__ __launch_bounds__(kWarps *
                             32) void AppendKernel(const __grid_constant__ AppendKvArgs kv,
                                                   const __grid_constant__ AppendSelectorArgs keys,
                                                   int kv_blocks) {
  __shared__ float rotated[kWarps][kMaxSelectorDim];
  AllowNext();
  const int row = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int at = static_cast<int>(blockIdx.y) * kWarps + warp;
  if (static_cast<int>(blockIdx.y) < kv_blocks) {
    if (at < kv.q_heads + 2 * kv.layer.kv_heads) AppendKvPart(kv, row, at);
  } else {
    const int part = at - kv_blocks * kWarps;
    if (part < SelectorParts(keys)) AppendSelectorPart(keys, row, part, rotated[warp]);
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

int KvBlocks(const AppendKvArgs& args) {
  return CeilDiv(args.q_heads + 2 * args.layer.kv_heads, kWarps);
}

cudaError_t LaunchBoth(const LaunchContext& ctx, const AppendKvArgs& kv, int kv_blocks,
                       const AppendSelectorArgs& keys, int key_blocks) {
  const dim3 grid(kv_blocks > 0 ? kv.batch.num_rows : keys.batch.num_rows, kv_blocks + key_blocks);
  const cudaError_t error = Launch(ctx, AppendKernel, grid, kWarps * 32, 0, kv, keys, kv_blocks);
  if (error != cudaSuccess || kv.layer.summary == nullptr) return error;
  return Launch(ctx, SummariseKernel, dim3(kv.batch.num_rows, kv.layer.kv_heads), 128, 0, kv);
}

}  // namespace

cudaError_t LaunchAppendKv(const LaunchContext& ctx, const AppendKvArgs& args) {
  return LaunchBoth(ctx, args, KvBlocks(args), {}, 0);
}

cudaError_t LaunchAppendSelector(const LaunchContext& ctx, const AppendSelectorArgs& args) {
  if (args.layer.selector_dim > kMaxSelectorDim) return cudaErrorInvalidValue;
  return LaunchBoth(ctx, {}, 0, args, CeilDiv(SelectorParts(args), kWarps));
}

cudaError_t LaunchAppend(const LaunchContext& ctx, const AppendKvArgs& kv,
                         const AppendSelectorArgs& keys) {
  if (keys.layer.selector_dim > kMaxSelectorDim) return cudaErrorInvalidValue;
  return LaunchBoth(ctx, kv, KvBlocks(kv), keys, CeilDiv(SelectorParts(keys), kWarps));
}

}  // namespace spotd::kernels::cuda
