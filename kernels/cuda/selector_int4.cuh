// Scores of blocks of int4 selector keys, from the query to a block's log-sum-exp: what the kernels
// of selector_score.cu and selector_score_rows.cu share.
//
// int4 keys go through u8 x s8 tensor-core products without being dequantised: nibbles are offset
// binary, so masking and shifting makes the bytes, and the offset is a constant of the query. A
// query head takes two of the instruction's eight columns, a coarse and a fine part of 8 bits each,
// so that quantising q costs 2^-15 of its largest element. The constant also holds 1.5 * 2^23,
// which makes the integer sum of both parts readable as a float.
#pragma once

#include "kernels/cuda/selector_layout.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlocksPerSm = 4;  // thread blocks, so that enough keys are in flight
constexpr int kHeadsPerTile = 4;
constexpr int kMagicBits = 0x4B400000;  // 1.5 * 2^23 as a float
constexpr float kMagic = 12582912.0f;
constexpr float kLeastQuery = 1e-30f;  // a head whose largest element is no more counts as zero
constexpr int kFineSteps = 128;        // of a coarse step: sums of both parts fit in 23 bits

// The query as tensor-core operands. Column 2h of a tile is the coarse part of head h, 2h + 1 the
// fine part.
template <int kGroups, int kHeadTiles>
struct Query {
  uint32_t b[kHeadTiles][kGroups][2];
  // Of head t: the magic, less what the codes' offset adds to the sum of both parts.
  int start[kHeadTiles][kGroups];
  // Of head t: q's scale, 1 / sqrt(d), log2 e and, where there is one choice only, its mixing
  // weight.
  float weight[kHeadTiles];
};

// The same for a whole warp, in shared memory: each group of dims made by one warp for all.
template <int kGroups, int kHeadTiles>
struct SharedQuery {
  uint32_t b[kHeadTiles][kGroups][2][32];
  int start[kHeadTiles][kGroups][4];
  float weight[kHeadTiles][4];
};

__device__ inline int ByteSum(uint32_t bytes) {
  return __dp4a(static_cast<int>(bytes), 0x01010101, 0);
}

__device__ inline uint32_t PackBytes(const int (&v)[4]) {
  return (v[0] & 0xff) | (v[1] & 0xff) << 8 | (v[2] & 0xff) << 16 | (v[3] & 0xff) << 24;
}

// One warp quantises groups [begin, begin + count) of the dims of the four heads of a tile.
template <int kGroups, int kHeadTiles, bool kOneChoice>
__device__ inline void QuantiseQuery(const SelectorScoreArgs& args, int row, int tile, int begin,
                                     int count, SharedQuery<kGroups, kHeadTiles>& query) {
  constexpr int kDim = kGroups * kInt4Group;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int head = tile * kHeadsPerTile + g / 2;
  const auto* q = static_cast<const Bf16x*>(args.q) + (int64_t{row} * args.heads + head) * kDim;
  const int mine = tile * kHeadsPerTile + t;
  float mix = 1.0f;
  if constexpr (kOneChoice) {
    mix =
        mine < args.heads
            ? __bfloat162float(static_cast<const Bf16x*>(args.w)[int64_t{row} * args.heads + mine])
            : 0.0f;
  }
  // This lane's dims of every group: 4t + i and 16 + 4t + i.
  const auto load = [&](int half) {
    return head < args.heads ? *reinterpret_cast<const uint2*>(q + half * 16 + 4 * t) : uint2{0, 0};
  };
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 2 * kGroups; ++i) {
    const uint2 v = load(i);
    largest = fmaxf(largest, fmaxf(fmaxf(fabsf(LowBf16(v.x)), fabsf(HighBf16(v.x))),
                                   fmaxf(fabsf(LowBf16(v.y)), fabsf(HighBf16(v.y)))));
  }
  largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, 2));
  const float inverse = largest > kLeastQuery ? __fdividef(127.0f, largest) : 0.0f;
  for (int group = begin; group < begin + count; ++group) {
    const uint2 own[2] = {load(2 * group), load(2 * group + 1)};
    int sum = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint2 v = own[half];
      const float x[4] = {LowBf16(v.x), HighBf16(v.x), LowBf16(v.y), HighBf16(v.y)};
      int bytes[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float scaled = x[i] * inverse;
        const float coarse = rintf(scaled);
        bytes[i] = static_cast<int>(g % 2 == 0 ? coarse : rintf((scaled - coarse) * kFineSteps));
      }
      const uint32_t packed = PackBytes(bytes);
      query.b[tile][group][half][lane] = packed;
      sum += ByteSum(packed);
    }
    sum += __shfl_xor_sync(kFullMask, sum, 1);
    sum += __shfl_xor_sync(kFullMask, sum, 2);
    const int fine = __shfl_down_sync(kFullMask, sum, 4);
    if (t == 0 && g % 2 == 0)
      query.start[tile][group][g / 2] = kMagicBits - 8 * (kFineSteps * sum + fine);
  }
  // Lane (2t, .) holds the largest of head t.
  const float scale = __shfl_sync(kFullMask, largest, 8 * t) / (127.0f * kFineSteps);
  if (begin == 0 && g == 0)
    query.weight[tile][t] = mix * scale * rsqrtf(static_cast<float>(kDim)) * kLog2E;
}

template <int kGroups, int kHeadTiles>
__device__ inline Query<kGroups, kHeadTiles> LoadQuery(
    const SharedQuery<kGroups, kHeadTiles>& shared) {
  const int lane = threadIdx.x % 32;
  const int t = lane % 4;
  Query<kGroups, kHeadTiles> query;
#pragma unroll
  for (int tile = 0; tile < kHeadTiles; ++tile) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        query.b[tile][group][half] = shared.b[tile][group][half][lane];
      query.start[tile][group] = shared.start[tile][group][t];
    }
    query.weight[tile] = shared.weight[tile][t];
  }
  return query;
}

// One lane's part of a tile of 16 keys: code words and scales of tokens g and g + 8.
template <int kGroups>
struct KeyTile {
  uint32_t codes[2][kGroups];
  uint32_t scales[2][(kGroups + 1) / 2];
};

// Where a lane finds its part of a tile; `scales` lies in the same tile. With constants for all
// sizes an address is one multiplication, and all loads of a batch of blocks are on their way as
// soon as the block table has been read.
struct LaneKeys {
  const uint8_t* codes;
  const uint8_t* scales;
};

template <int kGroups>
__device__ inline LaneKeys LaneKeysOf(const uint8_t* tile) {
  const int lane = threadIdx.x % 32;
  return {tile + lane * 4 * kGroups, tile + kKeyTile * kGroups * 16 + lane / 4 * 2 * kGroups};
}

template <int kGroups>
__device__ inline void LoadTile(const LaneKeys& lane, int64_t offset, KeyTile<kGroups>& keys) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint8_t* codes = lane.codes + offset + half * 8 * 16 * kGroups;
    const uint8_t* scales = lane.scales + offset + half * 8 * 2 * kGroups;
    if constexpr (kGroups == 4) {
      const uint4 c = LoadStream16(codes);
      keys.codes[half][0] = c.x;
      keys.codes[half][1] = c.y;
      keys.codes[half][2] = c.z;
      keys.codes[half][3] = c.w;
      const uint2 s = LoadStream8(scales);
      keys.scales[half][0] = s.x;
      keys.scales[half][1] = s.y;
    } else if constexpr (kGroups == 2) {
      const uint2 c = LoadStream8(codes);
      keys.codes[half][0] = c.x;
      keys.codes[half][1] = c.y;
      keys.scales[half][0] = *reinterpret_cast<const uint32_t*>(scales);
    } else {
      static_assert(kGroups == 1);
      keys.codes[half][0] = *reinterpret_cast<const uint32_t*>(codes);
      keys.scales[half][0] = *reinterpret_cast<const uint16_t*>(scales);
    }
  }
}

// One head tile's weighted products with tokens g and g + 8: lane t has head t's.
struct HeadProducts {
  float low;
  float high;
};

template <int kGroups, int kHeadTiles>
__device__ inline void MultiplyTile(const Query<kGroups, kHeadTiles>& query,
                                    const KeyTile<kGroups>& keys,
                                    HeadProducts (&products)[kHeadTiles]) {
#pragma unroll
  for (int tile = 0; tile < kHeadTiles; ++tile) {
    float dot[2] = {0, 0};
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      int acc[4];
      const uint32_t low = keys.codes[0][group];
      const uint32_t high = keys.codes[1][group];
      MmaU8S8(acc, low & 0x0f0f0f0fu, high & 0x0f0f0f0fu, low >> 4 & 0x0f0f0f0fu,
              high >> 4 & 0x0f0f0f0fu, query.b[tile][group][0], query.b[tile][group][1]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = keys.scales[half][group / 2];
        const float scale = __half2float(
            __ushort_as_half(static_cast<unsigned short>(group % 2 ? pair >> 16 : pair)));
        const int sum = acc[2 * half] * kFineSteps + acc[2 * half + 1] + query.start[tile][group];
        dot[half] = fmaf(__int_as_float(sum) - kMagic, scale, dot[half]);
      }
    }
    products[tile] = {fmaxf(dot[0], 0.0f) * query.weight[tile],
                      fmaxf(dot[1], 0.0f) * query.weight[tile]};
  }
}

// Scores of tokens g and g + 8, log2 domain, the same in the four lanes t: the products mixed by
// `mix`, which holds this lane's heads, 4 apart (kMixed: they are mixed already).
template <int kHeadTiles, bool kMixed>
__device__ inline float2 MixHeads(const HeadProducts (&products)[kHeadTiles], const float* mix) {
  float2 score = {0, 0};
#pragma unroll
  for (int tile = 0; tile < kHeadTiles; ++tile) {
    const float weight = kMixed ? 1.0f : mix[tile * kHeadsPerTile];
    score.x = tile == 0 ? products[0].low * weight : fmaf(products[tile].low, weight, score.x);
    score.y = tile == 0 ? products[0].high * weight : fmaf(products[tile].high, weight, score.y);
  }
  score.x += __shfl_xor_sync(kFullMask, score.x, 1);
  score.y += __shfl_xor_sync(kFullMask, score.y, 1);
  score.x += __shfl_xor_sync(kFullMask, score.x, 2);
  score.y += __shfl_xor_sync(kFullMask, score.y, 2);
  return score;
}

// __log2f without its care for denormals.
__device__ inline float Log2OfAtLeastOne(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The log-sum-exp (natural) of a block from the lanes' scores of its tokens; lanes t agree.
template <int kScores>
__device__ inline float BlockLse(const float (&scores)[kScores]) {
  float max = scores[0];
#pragma unroll
  for (int i = 1; i < kScores; ++i) max = fmaxf(max, scores[i]);
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2)
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, offset));
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kScores; ++i) sum += Exp2(scores[i] - max);
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(kFullMask, sum, offset);
  return (max + Log2OfAtLeastOne(sum)) * kLn2;
}

}  // namespace
}  // namespace spotd::kernels::cuda
