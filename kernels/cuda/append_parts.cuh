// What one warp does when a step's rows are appended: norm, rotation and, for the selector's keys,
// quantisation. Internal to append.cu.
//
// The work is a chain of memory latencies, so everything that no kernel of the step writes (gains,
// turns, places) is fetched before WaitForPrevious, and a lane keeps its pairs in registers.
#pragma once

#include "kernels/cuda/paged.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/selector_layout.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kMaxSelectorDim = 256;

// What a lane knows of its pairs before the vector is there; pairs as in LaneTurns.
struct LanePairs {
  LaneTurns turns;
  float2 gain[LaneTurns::kHeld];  // of the pair's two dims; 1 without a norm
};

__device__ inline LanePairs MakePairs(const Rope& rope, int position, const float* norm) {
  LanePairs pairs;
  const int half = rope.rotary_dim / 2;
#pragma unroll
  for (int j = 0; j < LaneTurns::kHeld; ++j) {
    const int i = static_cast<int>(threadIdx.x) % 32 + 32 * j;
    pairs.gain[j] = norm != nullptr && i < half ? float2{norm[i], norm[i + half]} : float2{1, 1};
  }
  pairs.turns = MakeTurns(rope, position);
  return pairs;
}

// Norm (nullable), then RoPE, of a head vector; calls write(i, value) for every dim. A lane reads
// only what it writes, and all of it first.
template <typename Write>
__device__ inline void NormAndRotate(const Bf16x* x, const float* norm, const Rope& rope,
                                     const LanePairs& pairs, int dim, int position, float eps,
                                     const Write& write) {
  constexpr int kHeld = LaneTurns::kHeld;
  const int lane = threadIdx.x % 32;
  const int half = rope.rotary_dim / 2;
  float2 held[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int i = lane + 32 * j;
    held[j] =
        i < half ? float2{__bfloat162float(x[i]), __bfloat162float(x[i + half])} : float2{0, 0};
  }
  float inverse = 1.0f;
  if (norm != nullptr) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) sum += held[j].x * held[j].x + held[j].y * held[j].y;
    const auto see = [&](int i) {
      const float value = __bfloat162float(x[i]);
      sum += value * value;
    };
    for (int i = lane + 32 * kHeld; i < half; i += 32) {
      see(i);
      see(i + half);
    }
    for (int i = rope.rotary_dim + lane; i < dim; i += 32) see(i);
    inverse = rsqrtf(WarpSum(sum) / static_cast<float>(dim) + eps);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int i = lane + 32 * j;
    if (i >= half) break;
    const float2 turned = Turned(pairs.turns.held[j], held[j].x * inverse * pairs.gain[j].x,
                                 held[j].y * inverse * pairs.gain[j].y);
    write(i, turned.x);
    write(i + half, turned.y);
  }
  const auto value_of = [&](int i) {
    const float scaled = __bfloat162float(x[i]) * inverse;
    return norm == nullptr ? scaled : scaled * norm[i];
  };
  for (int i = lane + 32 * kHeld; i < half; i += 32) {
    const float2 turned = Turned(RopeTurn(rope, i, position), value_of(i), value_of(i + half));
    write(i, turned.x);
    write(i + half, turned.y);
  }
  for (int i = rope.rotary_dim + lane; i < dim; i += 32) write(i, value_of(i));
}

// One head of a row: queries, then keys, then values.
__device__ inline void AppendKvPart(const AppendKvArgs& args, int row, int head) {
  const KvLayer& layer = args.layer;
  const int dim = layer.head_dim;
  const int position = args.positions[row];
  const auto rotate = [&](const Bf16x* from, const float* norm, Bf16x* to) {
    const LanePairs pairs = MakePairs(args.rope, position, norm);
    WaitForPrevious();
    NormAndRotate(from, norm, args.rope, pairs, dim, position, args.eps,
                  [to](int i, float x) { to[i] = __float2bfloat16(x); });
  };
  if (head < args.q_heads) {
    Bf16x* q = static_cast<Bf16x*>(args.q) + (int64_t{row} * args.q_heads + head) * dim;
    rotate(q, args.q_norm, q);
    return;
  }
  const int kv_head = (head - args.q_heads) % layer.kv_heads;
  const RowPlace place = FindRow(args.batch, row);
  const int physical = PhysicalBlock(args.batch, place.seq, place.token / layer.block_tokens);
  Bf16x* key = KeyRows(layer, physical, kv_head) + place.token % layer.block_tokens * dim;
  const int64_t from = (int64_t{row} * layer.kv_heads + kv_head) * dim;
  if (head < args.q_heads + layer.kv_heads) {
    rotate(static_cast<const Bf16x*>(args.k) + from, args.k_norm, key);
    return;
  }
  const Bf16x* v = static_cast<const Bf16x*>(args.v) + from;
  Bf16x* value = key + ValueOffset(layer);
  WaitForPrevious();
  for (int i = threadIdx.x % 32; i < dim; i += 32) value[i] = v[i];
}

// The warp's group of 32 (int4) is one value per lane; the groups' chains run side by side.
__device__ inline void StoreInt4(const KvLayer& layer, const float* x, int token, uint8_t* block) {
  constexpr int kAtOnce = 4;
  const int lane = threadIdx.x % 32;
  const int groups = layer.selector_dim / kInt4Group;
  for (int first = 0; first < groups; first += kAtOnce) {
    float value[kAtOnce];
    float largest[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      value[i] = first + i < groups ? x[(first + i) * kInt4Group + lane] : 0.0f;
      // Magnitudes order as their bits do.
      largest[i] = __uint_as_float(__reduce_max_sync(kFullMask, __float_as_uint(fabsf(value[i]))));
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Fp16 scale = Int4Scale(largest[i]);
      const int code = Int4Code(value[i], scale);
      const int high = __shfl_down_sync(kFullMask, code, 16);
      if (first + i >= groups) continue;
      if (lane < 16) {
        block[Int4CodeOffset(layer, token, (first + i) * 16 + lane)] =
            static_cast<uint8_t>(code | high << 4);
      }
      if (lane == 0)
        *reinterpret_cast<Fp16*>(block + Int4ScaleOffset(layer, token, first + i)) = scale;
    }
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

// Part 0 of a row is the selector's key, then come its query heads. `rotated` is the warp's own,
// [kMaxSelectorDim] in shared memory.
__device__ inline void AppendSelectorPart(const AppendSelectorArgs& args, int row, int part,
                                          float* rotated) {
  const KvLayer& layer = args.layer;
  const int dim = layer.selector_dim;
  const int position = args.positions[row];
  const LanePairs pairs = MakePairs(args.rope, position, part == 0 ? args.k_norm : nullptr);
  if (part > 0) {
    Bf16x* q = static_cast<Bf16x*>(args.q) + (int64_t{row} * args.heads + part - 1) * dim;
    WaitForPrevious();
    NormAndRotate(q, nullptr, args.rope, pairs, dim, position, args.eps,
                  [q](int i, float x) { q[i] = __float2bfloat16(x); });
    return;
  }
  const RowPlace place = FindRow(args.batch, row);
  uint8_t* block =
      SelectorBlock(layer, PhysicalBlock(args.batch, place.seq, place.token / layer.block_tokens));
  const int token = place.token % layer.block_tokens;
  WaitForPrevious();
  NormAndRotate(static_cast<const Bf16x*>(args.k) + int64_t{row} * dim, args.k_norm, args.rope,
                pairs, dim, position, args.eps, [rotated](int i, float x) { rotated[i] = x; });
  __syncwarp();
  if (layer.selector_format == SelectorKeyFormat::kInt4) {
    StoreInt4(layer, rotated, token, block);
  } else {
    StorePlain(layer, rotated, token, block);
  }
}

// Parts of a row's append to the selector's cache.
SPOTD_HOST_DEVICE inline int SelectorParts(const AppendSelectorArgs& args) {
  return 1 + (args.q == nullptr ? 0 : args.heads);
}

}  // namespace
}  // namespace spotd::kernels::cuda
