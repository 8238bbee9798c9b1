// The distilled selector's block masses over bf16 and fp4 keys, by bf16 tensor-core products.
//
// Heads are the rows of a product and tokens its columns; the order of the summed dimension is
// free, so each format is read in the order that suits its bytes and the query is laid out to
// match. An fp4 value times its scale has at most six significant bits: a bf16 holds it exactly.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/selector_layout.cuh"
#include "kernels/cuda/selector_score_mma.h"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlocksPerSm = 2;  // thread blocks
constexpr int kMaxHeads = 16;
constexpr int kMaxGroups = 16;  // whose running sums fit in shared memory

// Both formats below: lane (g, t) owns kWords pairs of dims of tokens g and g + 8 of a tile.

// bf16 keys: pairs 4c .. 4c + 3 are dims 32c + 8t .. + 7.
template <int kDim>
struct Bf16Keys {
  static constexpr int kWords = kDim / 8;
  static constexpr int kKeyBytes = 2 * kDim;
  uint4 raw[2][kDim / 32];

  __device__ void Load(const uint8_t* tile) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto* key = reinterpret_cast<const Bf16x*>(tile) + (half * 8 + g) * kDim;
#pragma unroll
      for (int c = 0; c < kDim / 32; ++c)
        raw[half][c] = LoadStream16(key + 32 * c + 8 * (threadIdx.x % 4));
    }
  }
  __device__ void Expand(int half, uint32_t (&words)[kWords]) const {
    Unpack(raw[half], words);
  }
  __device__ static void LoadQuery(const Bf16x* q, uint32_t (&words)[kWords]) {
    uint4 from[kDim / 32];
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c)
      from[c] = *reinterpret_cast<const uint4*>(q + 32 * c + 8 * (threadIdx.x % 4));
    Unpack(from, words);
  }

 private:
  __device__ static void Unpack(const uint4 (&from)[kDim / 32], uint32_t (&words)[kWords]) {
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c) {
      words[4 * c] = from[c].x;
      words[4 * c + 1] = from[c].y;
      words[4 * c + 2] = from[c].z;
      words[4 * c + 3] = from[c].w;
    }
  }
};

// fp4 keys: lane t owns groups t * kPerLane and on; pair i of a group is dims i and i + 8, the two
// nibbles of byte i.
template <int kDim>
struct Fp4Keys {
  static constexpr int kWords = kDim / 8;
  static constexpr int kPerLane = kDim / kFp4Group / 4;
  static constexpr int kKeyBytes = kDim / 2 + kDim / kFp4Group;
  uint2 codes[2][kPerLane];
  uint8_t scales[2][kPerLane];

  __device__ void Load(const uint8_t* tile) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint8_t* key = tile + (half * 8 + g) * kKeyBytes;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int group = static_cast<int>(threadIdx.x) % 4 * kPerLane + i;
        // Keys of 64 dims are 36 bytes apart: only four of them are aligned.
        const auto* from = reinterpret_cast<const uint32_t*>(key + 8 * group);
        codes[half][i] =
            kKeyBytes % 8 == 0 ? *reinterpret_cast<const uint2*>(from) : uint2{from[0], from[1]};
        scales[half][i] = key[kDim / 2 + group];
      }
    }
  }
  __device__ void Expand(int half, uint32_t (&words)[kWords]) const {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const __nv_bfloat162 scale = __float2bfloat162_rn(E4m3Value(scales[half][i]));
      ExpandWord(codes[half][i].x, scale, &words[8 * i]);
      ExpandWord(codes[half][i].y, scale, &words[8 * i + 4]);
    }
  }
  __device__ static void LoadQuery(const Bf16x* q, uint32_t (&words)[kWords]) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const Bf16x* group = q + (static_cast<int>(threadIdx.x) % 4 * kPerLane + i) * kFp4Group;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const __nv_bfloat162 pair = {group[j], group[j + 8]};
        words[8 * i + j] = *reinterpret_cast<const uint32_t*>(&pair);
      }
    }
  }

 private:
  // Four bytes to four pairs. The bf16 of an e2m1 code's magnitude is looked up a byte at a time.
  __device__ static void ExpandWord(uint32_t word, __nv_bfloat162 scale, uint32_t* pairs) {
    constexpr uint32_t kLow[2] = {0xC0800000u, 0xC0804000u};
    constexpr uint32_t kHigh[2] = {0x3F3F3F00u, 0x40404040u};
    const uint32_t magnitudes = word & 0x77777777u;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t low = __byte_perm(kLow[0], kLow[1], magnitudes >> 16 * i);
      const uint32_t high = __byte_perm(kHigh[0], kHigh[1], magnitudes >> 16 * i);
      const uint32_t signs = word >> 16 * i;
      pairs[2 * i] = Scaled(
          __byte_perm(low, high, 0x5140) | (signs << 12 & 0x8000u) | (signs << 24 & 0x80000000u),
          scale);
      pairs[2 * i + 1] = Scaled(
          __byte_perm(low, high, 0x7362) | (signs << 4 & 0x8000u) | (signs << 16 & 0x80000000u),
          scale);
    }
  }
  __device__ static uint32_t Scaled(uint32_t pair, __nv_bfloat162 scale) {
    const __nv_bfloat162 product = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&pair), scale);
    return *reinterpret_cast<const uint32_t*>(&product);
  }
};

// The query's heads g and g + 8 in the keys' order of dims.
template <typename Keys, int kHeadTiles>
struct MmaQuery {
  uint32_t words[kHeadTiles][Keys::kWords];

  __device__ void Load(const SelectorScoreArgs& args, int row) {
    const int dim = args.layer.selector_dim;
#pragma unroll
    for (int h = 0; h < kHeadTiles; ++h) {
      const int head = h * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
      for (uint32_t& word : words[h]) word = 0;
      if (head >= args.heads) continue;
      const int64_t at = int64_t{row} * args.heads + head;
      Keys::LoadQuery(static_cast<const Bf16x*>(args.q) + at * dim, words[h]);
    }
  }
};

// The same heads' mixing weights (log2 domain, scaled) for one choice.
template <int kHeadTiles>
struct MmaMix {
  float weight[kHeadTiles];

  __device__ void Load(const SelectorScoreArgs& args, int row, int group) {
    const float scale = rsqrtf(static_cast<float>(args.layer.selector_dim)) * kLog2E;
    const int64_t first = (int64_t{row} * args.groups + group) * args.heads;
#pragma unroll
    for (int h = 0; h < kHeadTiles; ++h) {
      const int head = h * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
      weight[h] = head < args.heads
                      ? __bfloat162float(static_cast<const Bf16x*>(args.w)[first + head]) * scale
                      : 0.0f;
    }
  }
};

// Index within a tile of the token whose score MixMmaTile gives to this lane.
__device__ inline int LaneToken() {
  const int g = threadIdx.x % 32 / 4;
  return g / 4 * 8 + 2 * (static_cast<int>(threadIdx.x) % 4) + g / 2 % 2;
}

// relu(q . k) of this lane's heads with tokens 8 half + 2t + j: product[tile of heads][half][j].
template <typename Keys, int kHeadTiles>
__device__ inline void MultiplyMmaTile(const MmaQuery<Keys, kHeadTiles>& query, const Keys& keys,
                                       float (&product)[kHeadTiles][2][2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t k[Keys::kWords];
    keys.Expand(half, k);
    float dot[4] = {};
    const auto& q = query.words;
#pragma unroll
    for (int i = 0; i < Keys::kWords; i += 2) {
      const uint32_t b0 = kHeadTiles == 2 ? q[kHeadTiles - 1][i] : 0;
      const uint32_t b1 = kHeadTiles == 2 ? q[kHeadTiles - 1][i + 1] : 0;
      MmaBf16(dot, q[0][i], b0, q[0][i + 1], b1, k[i], k[i + 1]);
    }
#pragma unroll
    for (int h = 0; h < kHeadTiles; ++h) {
#pragma unroll
      for (int j = 0; j < 2; ++j) product[h][half][j] = fmaxf(dot[2 * h + j], 0.0f);
    }
  }
}

// The score of LaneToken() (log2 domain); lanes g and g ^ 1 agree.
template <int kHeadTiles>
__device__ inline float MixMmaTile(const float (&product)[kHeadTiles][2][2],
                                   const MmaMix<kHeadTiles>& mix) {
  float score[2][2];  // tokens 8 half + 2t, + 1, this lane's heads
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      score[half][j] = mix.weight[0] * product[0][half][j];
      if constexpr (kHeadTiles == 2) score[half][j] += mix.weight[1] * product[1][half][j];
    }
  }
  // Sum over the heads (lanes g), each step leaving a lane half as many tokens.
  const bool upper = (threadIdx.x & 16) != 0;
  float pair[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float mine = upper ? score[1][j] : score[0][j];
    const float other = upper ? score[0][j] : score[1][j];
    pair[j] = mine + __shfl_xor_sync(kFullMask, other, 16);
  }
  const bool odd = (threadIdx.x & 8) != 0;
  const float mine = odd ? pair[1] : pair[0];
  const float other = odd ? pair[0] : pair[1];
  const float sum = mine + __shfl_xor_sync(kFullMask, other, 8);
  return sum + __shfl_xor_sync(kFullMask, sum, 4);
}

// A running log2-sum-exp2 of this lane's tokens of a block.
struct LaneSum {
  float max = -INFINITY;
  float sum = 0;
  __device__ void Add(float score) {
    const float top = fmaxf(max, score);
    sum = sum * Exp2(max - top) + Exp2(score - top);
    max = top;
  }
};

// The natural log-sum-exp over lanes that hold (max, sum) each in the log2 domain; lanes g and g ^
// 1 agree.
__device__ inline float LanesLse(float max, float sum) {
  float top = max;
#pragma unroll
  for (const int offset : {1, 2, 8, 16}) top = fmaxf(top, __shfl_xor_sync(kFullMask, top, offset));
  sum *= Exp2(max - top);
#pragma unroll
  for (const int offset : {1, 2, 8, 16}) sum += __shfl_xor_sync(kFullMask, sum, offset);
  return (top + __log2f(sum)) * kLn2;
}

// A warp takes a block at a time, tile by tile; the next tile's keys are asked for before the
// current ones are scored. kOneChoice: groups is 1; else a LaneSum for each group and thread is in
// dynamic shared memory.
template <typename Keys, int kHeadTiles, bool kOneChoice>
__global__ __launch_bounds__(kWarps * 32, kBlocksPerSm) void ScoreMmaKernel(
    const __grid_constant__ SelectorScoreArgs args) {
  extern __shared__ float2 sums[];  // [groups, threads]
  AllowNext();
  const KvLayer& layer = args.layer;
  const int row = blockIdx.y;
  const int groups = kOneChoice ? 1 : args.groups;
  const int kv_len = args.batch.kv_len[row];
  const int blocks = (kv_len + layer.block_tokens - 1) / layer.block_tokens;
  const int tiles = layer.block_tokens / kKeyTile;
  constexpr int kTileBytes = kKeyTile * Keys::kKeyBytes;
  const int step = static_cast<int>(gridDim.x) * kWarps;
  int block = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  Keys ahead;
  const auto load = [&](int b, int tile) {
    const int64_t at = int64_t{PhysicalBlock(args.batch, row, b)} * tiles + tile;
    ahead.Load(static_cast<const uint8_t*>(layer.selector_keys) + at * kTileBytes);
  };
  // The step itself writes to the newest block only: older ones may be read at once.
  const bool older = block + 1 < blocks;
  if (older) load(block, 0);
  WaitForPrevious();
  if (!older && block < blocks) load(block, 0);
  MmaQuery<Keys, kHeadTiles> query;
  query.Load(args, row);
  MmaMix<kHeadTiles> mix;
  if constexpr (kOneChoice) mix.Load(args, row, 0);

  int tile = 0;
  LaneSum sum;
  while (block < blocks) {
    const Keys keys = ahead;
    const int token = block * layer.block_tokens + tile * kKeyTile + LaneToken();
    const bool last_tile = tile + 1 == tiles;
    const int next = last_tile ? block + step : block;
    if (next < blocks) load(next, last_tile ? 0 : tile + 1);
    float product[kHeadTiles][2][2];
    MultiplyMmaTile(query, keys, product);
    for (int group = 0; group < groups; ++group) {
      float2& kept = sums[kOneChoice ? 0 : group * kWarps * 32 + threadIdx.x];
      if constexpr (!kOneChoice) {
        mix.Load(args, row, group);
        sum = LaneSum{};
        if (tile != 0) sum = {kept.x, kept.y};
      }
      const float score = MixMmaTile(product, mix);
      if (token < kv_len) sum.Add(score);
      if (last_tile) {
        const float lse = LanesLse(sum.max, sum.sum);
        if (threadIdx.x % 32 == 0) {
          args.block_lse[(int64_t{row} * groups + group) * args.lse_stride + block] = lse;
        }
        sum = LaneSum{};
      } else if constexpr (!kOneChoice) {
        kept = {sum.max, sum.sum};
      }
    }
    tile = last_tile ? 0 : tile + 1;
    block = next;
  }
}

template <typename Keys, int kHeadTiles>
cudaError_t LaunchHeads(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  const int rows = args.batch.num_seqs;
  const int wanted = CeilDiv(CeilDiv(args.batch.max_kv_len, args.layer.block_tokens), kWarps);
  const int most = rows < kBlocksPerSm * ctx.sm_count ? kBlocksPerSm * ctx.sm_count / rows : 1;
  const dim3 grid(wanted < most ? wanted : most, rows);
  if (args.groups == 1) {
    return Launch(ctx, ScoreMmaKernel<Keys, kHeadTiles, true>, grid, kWarps * 32, 0, args);
  }
  const size_t sums = sizeof(float2) * kWarps * 32 * args.groups;
  return Launch(ctx, ScoreMmaKernel<Keys, kHeadTiles, false>, grid, kWarps * 32, sums, args);
}

template <typename Keys>
cudaError_t LaunchKeys(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  return args.heads <= 8 ? LaunchHeads<Keys, 1>(ctx, args) : LaunchHeads<Keys, 2>(ctx, args);
}

}  // namespace

bool SelectorScoreIsMma(const SelectorScoreArgs& args) {
  const KvLayer& layer = args.layer;
  const bool dim = layer.selector_dim == 64 || layer.selector_dim == 128;
  const bool format = layer.selector_format == SelectorKeyFormat::kBf16 ||
                      layer.selector_format == SelectorKeyFormat::kFp4;
  return dim && format && args.heads <= kMaxHeads && args.groups <= kMaxGroups &&
         layer.block_tokens % kKeyTile == 0;
}

cudaError_t LaunchSelectorScoreMma(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  const bool bf16 = args.layer.selector_format == SelectorKeyFormat::kBf16;
  if (args.layer.selector_dim == 64) {
    return bf16 ? LaunchKeys<Bf16Keys<64>>(ctx, args) : LaunchKeys<Fp4Keys<64>>(ctx, args);
  }
  return bf16 ? LaunchKeys<Bf16Keys<128>>(ctx, args) : LaunchKeys<Fp4Keys<128>>(ctx, args);
}

}  // namespace spotd::kernels::cuda
