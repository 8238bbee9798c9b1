// The distilled selector's block masses: one log-sum-exp per block; token scores never leave the
// registers.
//
// int4 keys go through u8 x s8 tensor-core products without being dequantised: nibbles are offset
// binary, so masking and shifting makes the bytes, and the offset is a constant of the query. A
// query head takes two of the instruction's eight columns, a coarse and a fine part of 8 bits each,
// so that quantising q costs 2^-15 of its largest element. The constant also holds 1.5 * 2^23,
// which makes the integer sum of both parts readable as a float.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/selector_layout.cuh"
#include "kernels/cuda/selector_score_mma.h"

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

// One warp quantises a group of dims of the four heads of a tile.
template <int kGroups, int kHeadTiles, bool kOneChoice>
__device__ inline void QuantiseQuery(const SelectorScoreArgs& args, int row, int tile, int group,
                                     SharedQuery<kGroups, kHeadTiles>& query) {
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
  const uint2 own[2] = {load(2 * group), load(2 * group + 1)};
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
  // Lane (2t, .) holds the largest of head t.
  const float scale = __shfl_sync(kFullMask, largest, 8 * t) / (127.0f * kFineSteps);
  if (group == 0 && g == 0)
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

// Mixing weights of all choices of a row, [groups, kHeadTiles * kHeadsPerTile], into shared memory.
template <int kHeadTiles>
__device__ inline void LoadMix(const SelectorScoreArgs& args, int row, float* mix) {
  constexpr int kHeads = kHeadTiles * kHeadsPerTile;
  const auto* w = static_cast<const Bf16x*>(args.w) + int64_t{row} * args.groups * args.heads;
  for (int i = threadIdx.x; i < args.groups * kHeads; i += kWarps * 32) {
    const int head = i % kHeads;
    mix[i] = head < args.heads ? __bfloat162float(w[i / kHeads * args.heads + head]) : 0.0f;
  }
}

// A warp takes a batch of blocks at a time: loads all their keys, then scores them. kOneChoice:
// groups is 1; else the kernel has LoadMix's dynamic shared memory.
template <int kGroups, int kHeadTiles, int kTiles, bool kOneChoice>
__global__ __launch_bounds__(
    kWarps * 32, kHeadTiles == 1 && kTiles < 4
                     ? kBlocksPerSm
                     : 2) void ScoreInt4Kernel(const __grid_constant__ SelectorScoreArgs args) {
  constexpr int kBatch = kTiles == 1 ? 2 : 1;  // blocks
  constexpr int kTileBytes = kKeyTile * kGroups * 18;
  constexpr int kBlockTokens = kTiles * kKeyTile;
  __shared__ SharedQuery<kGroups, kHeadTiles> shared;
  extern __shared__ float mix[];
  AllowNext();
  const int row = blockIdx.y;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int step = gridDim.x * kWarps * kBatch;
  const int32_t* table = args.batch.block_tables + int64_t{row} * args.batch.table_stride;
  const LaneKeys lane_keys =
      LaneKeysOf<kGroups>(static_cast<const uint8_t*>(args.layer.selector_keys));
  KeyTile<kGroups> keys[kBatch][kTiles];
  int first = (blockIdx.x * kWarps + warp) * kBatch;
  // Block numbers of the next keys; those of the first are asked for before the length is known.
  int32_t physical[kBatch];
#pragma unroll
  for (int i = 0; i < kBatch; ++i) physical[i] = table[min(first + i, args.batch.table_stride - 1)];
  const int kv_len = args.batch.kv_len[row];
  const int blocks = (kv_len + kBlockTokens - 1) / kBlockTokens;
  const auto number = [&](int first) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) physical[i] = table[max(min(first + i, blocks - 1), 0)];
  };
  const auto load = [&] {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t block = int64_t{physical[i]} * (kTiles * kTileBytes);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        LoadTile<kGroups>(lane_keys, block + tile * kTileBytes, keys[i][tile]);
    }
  };
  // The step itself writes to the newest block only: the first of the older ones may be read at
  // once.
  const bool older = first + kBatch < blocks;
  if (older) load();
  WaitForPrevious();
  if (!older && first < blocks) {
    number(first);
    load();
  }
  // The query is made while the first keys are on their way.
  static_assert(kHeadTiles * kGroups <= kWarps);
  if (warp < kHeadTiles * kGroups) {
    QuantiseQuery<kGroups, kHeadTiles, kOneChoice>(args, row, warp / kGroups, warp % kGroups,
                                                   shared);
  }
  if constexpr (!kOneChoice) LoadMix<kHeadTiles>(args, row, mix);
  __syncthreads();
  const Query<kGroups, kHeadTiles> query = LoadQuery<kGroups, kHeadTiles>(shared);
  const int groups = kOneChoice ? 1 : args.groups;

  for (; first < blocks; first += step) {
    HeadProducts products[kBatch][kTiles][kHeadTiles];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        MultiplyTile<kGroups, kHeadTiles>(query, keys[i][tile], products[i][tile]);
    }
    if (first + step < blocks) {
      number(first + step);
      load();
    }
    for (int group = 0; group < groups; ++group) {
      const float* own = kOneChoice ? nullptr : mix + group * kHeadTiles * kHeadsPerTile + lane % 4;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        float scores[2 * kTiles];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const float2 score = MixHeads<kHeadTiles, kOneChoice>(products[i][tile], own);
          const int token = (first + i) * kBlockTokens + tile * kKeyTile + lane / 4;
          scores[2 * tile] = token < kv_len ? score.x : -INFINITY;
          scores[2 * tile + 1] = token + 8 < kv_len ? score.y : -INFINITY;
        }
        const float lse = BlockLse(scores);
        if (lane == 0 && first + i < blocks) {
          args.block_lse[(int64_t{row} * groups + group) * args.lse_stride + first + i] = lse;
        }
      }
    }
  }
}

// Any format, dimension and number of heads: a warp per block and group, one token at a time.
constexpr int kAnyMaxPerLane = 8;

__global__ void ScoreAnyKernel(const __grid_constant__ SelectorScoreArgs args) {
  AllowNext();
  WaitForPrevious();
  const KvLayer& layer = args.layer;
  const int row = blockIdx.y;
  const int lane = threadIdx.x % 32;
  const int dim = layer.selector_dim;
  const int kv_len = args.batch.kv_len[row];
  const int blocks = (kv_len + layer.block_tokens - 1) / layer.block_tokens;
  const auto* q = static_cast<const Bf16x*>(args.q) + int64_t{row} * args.heads * dim;
  const int64_t choice = int64_t{row} * args.groups + blockIdx.z;
  const auto* w = static_cast<const Bf16x*>(args.w) + choice * args.heads;
  const float scale = rsqrtf(static_cast<float>(dim));
  for (int block = blockIdx.x * kWarps + threadIdx.x / 32; block < blocks;
       block += gridDim.x * kWarps) {
    const uint8_t* keys = SelectorBlock(layer, PhysicalBlock(args.batch, row, block));
    float max = -INFINITY;
    float sum = 0;
    for (int token = 0; token < min(layer.block_tokens, kv_len - block * layer.block_tokens);
         ++token) {
      float key[kAnyMaxPerLane];
      for (int i = 0; i < kAnyMaxPerLane; ++i) {
        key[i] = lane + 32 * i < dim ? SelectorKeyValue(layer, keys, token, lane + 32 * i) : 0.0f;
      }
      float score = 0;
      for (int head = 0; head < args.heads; ++head) {
        float dot = 0;
        for (int i = 0; i < kAnyMaxPerLane; ++i) {
          if (lane + 32 * i < dim) dot += key[i] * __bfloat162float(q[head * dim + lane + 32 * i]);
        }
        score += __bfloat162float(w[head]) * fmaxf(WarpSum(dot), 0.0f);
      }
      score *= scale;
      const float top = fmaxf(max, score);
      sum = sum * __expf(max - top) + __expf(score - top);
      max = top;
    }
    if (lane == 0) args.block_lse[choice * args.lse_stride + block] = max + __logf(sum);
  }
}

template <int kGroups, int kHeadTiles, bool kOneChoice>
cudaError_t LaunchChoices(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  const int blocks = CeilDiv(args.batch.max_kv_len, args.layer.block_tokens);
  const int rows = args.batch.num_seqs;
  const int wanted = CeilDiv(blocks, kWarps * (args.layer.block_tokens == kKeyTile ? 2 : 1));
  const int most =
      rows < kBlocksPerSm * ctx.sm_count ? kBlocksPerSm * ctx.sm_count / rows : 1;  // one wave
  const dim3 grid(wanted < most ? wanted : most, rows);
  const size_t mix = kOneChoice ? 0 : sizeof(float) * args.groups * kHeadTiles * kHeadsPerTile;
  const auto launch = [&](auto* kernel) {
    return Launch(ctx, kernel, grid, kWarps * 32, mix, args);
  };
  switch (args.layer.block_tokens / kKeyTile) {
    case 1:
      return launch(ScoreInt4Kernel<kGroups, kHeadTiles, 1, kOneChoice>);
    case 2:
      return launch(ScoreInt4Kernel<kGroups, kHeadTiles, 2, kOneChoice>);
    default:
      return launch(ScoreInt4Kernel<kGroups, kHeadTiles, 4, kOneChoice>);
  }
}

template <int kGroups, int kHeadTiles>
cudaError_t LaunchHeads(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  return args.groups == 1 ? LaunchChoices<kGroups, kHeadTiles, true>(ctx, args)
                          : LaunchChoices<kGroups, kHeadTiles, false>(ctx, args);
}

template <int kGroups>
cudaError_t LaunchGroups(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  return args.heads <= kHeadsPerTile ? LaunchHeads<kGroups, 1>(ctx, args)
                                     : LaunchHeads<kGroups, 2>(ctx, args);
}

cudaError_t LaunchAny(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  const int wanted = CeilDiv(CeilDiv(args.batch.max_kv_len, args.layer.block_tokens), kWarps);
  const int most = CeilDiv(kBlocksPerSm * ctx.sm_count, args.batch.num_seqs);
  const dim3 grid(wanted < most ? wanted : most, args.batch.num_seqs, args.groups);
  return Launch(ctx, ScoreAnyKernel, grid, kWarps * 32, 0, args);
}

}  // namespace

cudaError_t LaunchSelectorScore(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  if (SelectorScoreIsMma(args)) return LaunchSelectorScoreMma(ctx, args);
  const int tokens = args.layer.block_tokens;
  if (args.layer.selector_format != SelectorKeyFormat::kInt4 || args.heads > 2 * kHeadsPerTile ||
      (tokens != 16 && tokens != 32 && tokens != 64)) {
    return LaunchAny(ctx, args);
  }
  switch (args.layer.selector_dim) {
    case 32:
      return LaunchGroups<1>(ctx, args);
    case 64:
      return LaunchGroups<2>(ctx, args);
    case 128:
      return LaunchGroups<4>(ctx, args);
    default:
      return LaunchAny(ctx, args);
  }
}

}  // namespace spotd::kernels::cuda
