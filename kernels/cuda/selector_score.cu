// The distilled selector's block masses: one log-sum-exp per block; token scores never leave the
// registers. int4 keys (selector_int4.cuh), and those of any other shape than the kernels are made
// for.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/selector_int4.cuh"
#include "kernels/cuda/selector_score_mma.h"

namespace spotd::kernels::cuda {
namespace {

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
    QuantiseQuery<kGroups, kHeadTiles, kOneChoice>(args, row, warp / kGroups, warp % kGroups, 1,
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
