// The selector's query rotated in place; its key normalised, rotated, quantised and written to its
// block.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/selector_layout.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxDim = 256;

// Rotates x into `to` (float), scaled by `inverse` and `norm` (nullable). A lane reads only what it
// writes.
template <typename Write>
__device__ inline void RotateInto(const Bf16x* x, float inverse, const float* norm,
                                  const Rope& rope, const LaneTurns& turns, int dim, int position,
                                  const Write& write) {
  const int lane = threadIdx.x % 32;
  const auto value = [&](int i) {
    const float scaled = __bfloat162float(x[i]) * inverse;
    return norm == nullptr ? scaled : scaled * norm[i];
  };
  const int half = rope.rotary_dim / 2;
  ForEachPair(rope, turns, position, [&](int i, float2 turn) {
    const float2 turned = Turned(turn, value(i), value(i + half));
    write(i, turned.x);
    write(i + half, turned.y);
  });
  for (int i = rope.rotary_dim + lane; i < dim; i += 32) write(i, value(i));
}

// The warp's group of 32 (int4) is one value per lane.
__device__ inline void StoreInt4(const KvLayer& layer, const float* x, int token, uint8_t* block) {
  const int lane = threadIdx.x % 32;
  for (int group = 0; group < layer.selector_dim / kInt4Group; ++group) {
    const float value = x[group * kInt4Group + lane];
    const Fp16 scale = Int4Scale(WarpMax(fabsf(value)));
    const int code = Int4Code(value, scale);
    const int high = __shfl_down_sync(kFullMask, code, 16);
    if (lane < 16)
      block[Int4CodeOffset(layer, token, group * 16 + lane)] =
          static_cast<uint8_t>(code | high << 4);
    if (lane == 0) *reinterpret_cast<Fp16*>(block + Int4ScaleOffset(layer, token, group)) = scale;
  }
}

// Other formats: one lane per group, in the plain layout.
__device__ inline void StorePlain(const KvLayer& layer, const float* x, int token, uint8_t* block) {
  const int dim = layer.selector_dim;
  uint8_t* key = block + token * SelectorKeyBytes(layer.selector_format, dim);
  const int lane = threadIdx.x % 32;
  if (layer.selector_format == SelectorKeyFormat::kBf16) {
    for (int i = lane; i < dim; i += 32) reinterpret_cast<Bf16x*>(key)[i] = __float2bfloat16(x[i]);
    return;
  }
  for (int group = lane; group < dim / kFp4Group; group += 32) {
    const float* from = x + group * kFp4Group;
    const uint8_t scale = Fp4Scale(LargestMagnitude(from, kFp4Group));
    key[dim / 2 + group] = scale;
    StoreNibbles(kFp4Group / 2, key + group * kFp4Group / 2,
                 [&](int i) { return Fp4Code(from[i], scale); });
  }
}

__global__ void AppendSelectorKernel(const __grid_constant__ AppendSelectorArgs args) {
  __shared__ float rotated[kWarps][kMaxDim];
  AllowNext();
  const KvLayer& layer = args.layer;
  const int dim = layer.selector_dim;
  const int row = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int part = blockIdx.y * kWarps + warp;  // 0: the key, then the query heads
  const int heads = args.q == nullptr ? 0 : args.heads;
  if (part > heads) return;
  const int position = args.positions[row];
  const LaneTurns turns = MakeTurns(args.rope, position);
  if (part > 0) {
    Bf16x* q = static_cast<Bf16x*>(args.q) + (int64_t{row} * args.heads + part - 1) * dim;
    WaitForPrevious();
    RotateInto(q, 1.0f, nullptr, args.rope, turns, dim, position,
               [&](int i, float x) { q[i] = __float2bfloat16(x); });
    return;
  }
  const RowPlace place = FindRow(args.batch, row);
  uint8_t* block =
      SelectorBlock(layer, PhysicalBlock(args.batch, place.seq, place.token / layer.block_tokens));
  const int token = place.token % layer.block_tokens;
  WaitForPrevious();
  const Bf16x* k = static_cast<const Bf16x*>(args.k) + int64_t{row} * dim;
  float sum = 0;
  for (int i = threadIdx.x % 32; i < dim; i += 32) {
    const float value = __bfloat162float(k[i]);
    sum += value * value;
  }
  const float inverse = rsqrtf(WarpSum(sum) / static_cast<float>(dim) + args.eps);
  float* x = rotated[warp];
  RotateInto(k, inverse, args.k_norm, args.rope, turns, dim, position,
             [&](int i, float value) { x[i] = value; });
  __syncwarp();
  if (layer.selector_format == SelectorKeyFormat::kInt4) {
    StoreInt4(layer, x, token, block);
  } else {
    StorePlain(layer, x, token, block);
  }
}

}  // namespace

cudaError_t LaunchAppendSelector(const LaunchContext& ctx, const AppendSelectorArgs& args) {
  if (args.layer.selector_dim > kMaxDim) return cudaErrorInvalidValue;
  const int parts = 1 + (args.q == nullptr ? 0 : args.heads);
  return Launch(ctx, AppendSelectorKernel, dim3(args.batch.num_rows, CeilDiv(parts, kWarps)),
                kWarps * 32, 0, args);
}

}  // namespace spotd::kernels::cuda
