// Decode attention over chosen or all blocks of the paged cache: one query row per sequence, GQA
// groups of up to 16.
//
// A thread block serves (row, KV head, split); its warps stream 16-token tiles, each 4 KiB of K and
// of V at head_dim 128, from global memory straight into tensor-core fragments: no shared memory
// and no barrier in the loop. This rests on two free orders, both with g = lane / 4 and t = lane %
// 4:
//  - the summed dimension of q k^T: lane (g, t) loads 16 bytes of token g at dims 32c + 8t and
//  calls them the fragment's
//    k = {2t, 2t + 1, 2t + 8, 2t + 9} of two instructions (q is loaded the same way);
//  - the rows of V^T p^T: lane (g, t) loads 8 dims of tokens {2t, 2t + 1, 2t + 8, 2t + 9}; "row g"
//  of the i-th instruction
//    is dim 8g + i, so that pairing two tokens' words makes the fragment. The scores come out of
//    the first product in just the layout that the second one needs.
//
// Tile i of a row belongs to warp i mod (the warps that the device takes at once), so a warp can
// ask for its blocks before it knows how many there are. Which tiles a split holds thus depends on
// the row's own tile count and the device only, and a kernel of its own merges the splits in order:
// a row's result does not depend on its neighbours, and choosing every block gives dense
// attention's bits.
#include "kernels/cuda/attend_state.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_flow.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kTileTokens = 16;
constexpr int kBlocksPerSm = 3;
// A row of up to this many tiles keeps to two thirds of the splits: its warps then see more of
// them.
constexpr int kFewTiles = 2048;
// A new maximum rescales the sums only when it exceeds the old one by this much (log2): weights
// stay below 2^6.
constexpr float kRescaleSlack = 6.0f;

// Rows whose lists attention looks for where rows flow: those that thread blocks may reach before
// all lists are there. The others wait for the kernel, so that this one ends after it.
constexpr int kLookedForRows = 2;
static_assert(kLookedForRows < kLeastFlowRows);

struct Launched {
  AttendArgs args;
  float* partials;  // [rows, kv_heads, max_splits, group, kPartialHeader + head_dim]
  int32_t max_splits;
  RowFlow flow;  // empty where rows do not flow
};

int MaxSplits(const LaunchContext& ctx, int32_t kv_heads) {
  const int splits = ctx.sm_count * kBlocksPerSm / kv_heads;
  return splits > 1 ? splits : 1;
}

// Splits that a row of few tiles, and one of `tiles`, is dealt out to.
__device__ inline int FewSplits(int max_splits) {
  return max(1, max_splits * 2 / 3);
}
__device__ inline int MostSplits(int tiles, int max_splits) {
  return tiles <= kFewTiles ? FewSplits(max_splits) : max_splits;
}

// Those of them that hold any; at least one.
__device__ inline int SplitsOf(int tiles, int max_splits) {
  return min(MostSplits(tiles, max_splits), max(1, (tiles + kAttendWarps - 1) / kAttendWarps));
}

// The tiles of one (row, KV head).
struct RowTiles {
  int64_t choice;           // of the row and head, where blocks are chosen
  const int32_t* selected;  // its list; null: every block
  const int32_t* table;
  int32_t count;
  int32_t kv_len;
  int32_t tiles_per_block;
};

struct Tile {
  int32_t at;           // tiles from the layer's beginning; the values lie ValueOffset elements on
  int32_t first_token;  // of the sequence
};

// What is known before the blocks are chosen: all but the count of chosen tiles.
__device__ inline RowTiles RowOf(const AttendArgs& args, int row, int kv_head) {
  RowTiles tiles;
  tiles.kv_len = args.batch.kv_len[row];
  tiles.tiles_per_block = args.layer.block_tokens / kTileTokens;
  tiles.table = args.batch.block_tables + int64_t{row} * args.batch.table_stride;
  tiles.choice = int64_t{row} * args.groups + (args.groups == 1 ? 0 : kv_head);
  tiles.selected =
      args.selected == nullptr ? nullptr : args.selected + tiles.choice * args.selected_stride;
  tiles.count = (tiles.kv_len + kTileTokens - 1) / kTileTokens;
  return tiles;
}

// `blocks`: in the list.
__device__ inline void CountTiles(const AttendArgs& args, int blocks, RowTiles& tiles) {
  tiles.count = blocks * tiles.tiles_per_block;
  if (blocks > 0 && tiles.tiles_per_block > 1) {
    // The last block may end before its last tile.
    const int tokens = tiles.kv_len - tiles.selected[blocks - 1] * args.layer.block_tokens;
    tiles.count -= tiles.tiles_per_block -
                   min(tiles.tiles_per_block, (tokens + kTileTokens - 1) / kTileTokens);
  }
}

// The block of tile `index`. Beyond the count it is anything, but may be asked for.
__device__ inline int BlockOf(const AttendArgs& args, const RowTiles& tiles, int index) {
  const int slot = tiles.tiles_per_block == 1 ? index : index / tiles.tiles_per_block;
  if (tiles.selected == nullptr) return slot;
  return slot < args.selected_stride ? tiles.selected[slot] : 0;
}

__device__ inline Tile TileOf(const KvLayer& layer, const RowTiles& tiles, int kv_head, int index,
                              int block) {
  if (index >= tiles.count) return {0, 0};
  const int per_block = tiles.tiles_per_block;
  const int within = per_block == 1 ? 0 : index % per_block;
  return {(tiles.table[block] * 2 * layer.kv_heads + kv_head) * per_block + within,
          block * layer.block_tokens + within * kTileTokens};
}

__device__ inline Tile Broadcast(const Tile& tile, int lane) {
  return {__shfl_sync(kFullMask, tile.at, lane), __shfl_sync(kFullMask, tile.first_token, lane)};
}

// K of the tile: [kTileTokens, kDim].
template <int kDim>
__device__ inline const Bf16x* KeysOf(const KvLayer& layer, const Tile& tile) {
  return static_cast<const Bf16x*>(layer.kv) + int64_t{tile.at} * (kTileTokens * kDim);
}

template <int kDim>
__device__ inline void LoadKeys(const Bf16x* rows, uint4 (&keys)[2][kDim / 32]) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c)
      keys[half][c] = LoadStream16(rows + (half * 8 + g) * kDim + c * 32 + 8 * t);
  }
}

template <int kDim>
__device__ inline void LoadValues(const Bf16x* rows, uint4 (&values)[4][kDim / 64]) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = 2 * t + i % 2 + i / 2 * 8;
#pragma unroll
    for (int span = 0; span < kDim / 64; ++span) {
      values[i][span] = LoadStream16(rows + token * kDim + span * 64 + 8 * g);
    }
  }
}

// Tokens at or beyond `valid` hold anything, NaN included; their weight is zero, so make them
// finite.
template <int kDim>
__device__ inline void ClearInvalid(int valid, uint4 (&values)[4][kDim / 64]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (2 * t + i % 2 + i / 2 * 8 < valid) continue;
#pragma unroll
    for (int span = 0; span < kDim / 64; ++span) values[i][span] = {0, 0, 0, 0};
  }
}

// scores[half]: (head g, tokens 8 half + 2t, + 1), then the same of head g + 8.
template <int kDim, int kHeadTiles>
__device__ inline void Scores(const uint4 (&q)[kHeadTiles][kDim / 32],
                              const uint4 (&keys)[2][kDim / 32], float scale, int valid,
                              float (&scores)[2][4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c) {
      const uint4 a = q[0][c];
      const uint4 b = kHeadTiles == 2 ? q[kHeadTiles - 1][c] : uint4{0, 0, 0, 0};
      MmaBf16(scores[half], a.x, b.x, a.y, b.y, keys[half][c].x, keys[half][c].y);
      MmaBf16(scores[half], a.z, b.z, a.w, b.w, keys[half][c].z, keys[half][c].w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[half][i] = half * 8 + 2 * t + i % 2 < valid ? scores[half][i] * scale : -INFINITY;
    }
  }
}

// Raises the running maximum where the tile needs it, and turns scores into weights.
template <int kDim, int kHeadTiles>
__device__ inline void Softmax(float (&scores)[2][4], WarpState<kDim, kHeadTiles>& state) {
  bool raised = false;
  float factor[kHeadTiles];
#pragma unroll
  for (int h = 0; h < kHeadTiles; ++h) {
    float max = fmaxf(fmaxf(scores[0][2 * h], scores[0][2 * h + 1]),
                      fmaxf(scores[1][2 * h], scores[1][2 * h + 1]));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
    factor[h] = 1.0f;
    if (max > state.max[h] + kRescaleSlack) {
      factor[h] = Exp2(state.max[h] - max);
      state.max[h] = max;
      raised = true;
    }
  }
  if (__any_sync(kFullMask, raised)) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < kHeadTiles; ++h) {
      state.sum[h] *= factor[h];
      const float even = __shfl_sync(kFullMask, factor[h], 8 * t);
      const float odd = __shfl_sync(kFullMask, factor[h], 8 * t + 4);
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        state.out[h][i][0] *= even;
        state.out[h][i][1] *= odd;
        state.out[h][i][2] *= even;
        state.out[h][i][3] *= odd;
      }
    }
  }
#pragma unroll
  for (int h = 0; h < kHeadTiles; ++h) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        scores[half][i] = Exp2(scores[half][i] - state.max[h]);
        state.sum[h] += scores[half][i];
      }
    }
  }
}

template <int kDim, int kHeadTiles>
__device__ inline void AddValues(const float (&weights)[2][4], const uint4 (&values)[4][kDim / 64],
                                 WarpState<kDim, kHeadTiles>& state) {
  uint32_t p[kHeadTiles][2];
#pragma unroll
  for (int h = 0; h < kHeadTiles; ++h) {
    p[h][0] = PackBf16(weights[0][2 * h], weights[0][2 * h + 1]);
    p[h][1] = PackBf16(weights[1][2 * h], weights[1][2 * h + 1]);
  }
  constexpr int kSteps = kDim / 16;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    uint32_t a[2][2];  // [slot i or i + kSteps][tokens 2t.. or 2t + 8..]
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int slot = i + s * kSteps;
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const uint4& first = values[2 * pair][slot / 8];
        const uint4& second = values[2 * pair + 1][slot / 8];
        const int word = slot % 8 / 2;
        const uint32_t f = word == 0   ? first.x
                           : word == 1 ? first.y
                           : word == 2 ? first.z
                                       : first.w;
        const uint32_t n = word == 0   ? second.x
                           : word == 1 ? second.y
                           : word == 2 ? second.z
                                       : second.w;
        a[s][pair] = __byte_perm(f, n, slot % 2 == 0 ? 0x5410 : 0x7632);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeadTiles; ++h)
      MmaBf16(state.out[h][i], a[0][0], a[1][0], a[0][1], a[1][1], p[h][0], p[h][1]);
  }
}

// Streams the warp's tiles: first, first + step, ... below the count. `block` is what BlockOf says
// of tile first + lane * step.
template <int kDim, int kHeadTiles>
__device__ inline void StreamTiles(const AttendArgs& args, const RowTiles& tiles, int kv_head,
                                   int first, int step, int block,
                                   const uint4 (&q)[kHeadTiles][kDim / 32],
                                   WarpState<kDim, kHeadTiles>& state) {
  const int lane = threadIdx.x % 32;
  const float scale = args.scale * kLog2E;
  const int64_t value_offset = ValueOffset(args.layer);

  // Lane i holds the i-th of the next 32 tiles.
  Tile ahead = TileOf(args.layer, tiles, kv_head, first + lane * step, block);
  Tile tile = Broadcast(ahead, 0);
  uint4 keys[2][kDim / 32];
  uint4 values[4][kDim / 64];
  if (first < tiles.count) {
    LoadKeys<kDim>(KeysOf<kDim>(args.layer, tile), keys);
    LoadValues<kDim>(KeysOf<kDim>(args.layer, tile) + value_offset, values);
  }
  int at = 0;
  for (int index = first; index < tiles.count; index += step) {
    const int valid = tiles.kv_len - tile.first_token;
    at = (at + 1) % 32;
    if (at == 0) {
      const int mine = index + step + lane * step;
      ahead = TileOf(args.layer, tiles, kv_head, mine, BlockOf(args, tiles, mine));
    }
    const Tile next = Broadcast(ahead, at);
    const bool more = index + step < tiles.count;

    float scores[2][4] = {};
    Scores<kDim, kHeadTiles>(q, keys, scale, valid, scores);
    if (more) LoadKeys<kDim>(KeysOf<kDim>(args.layer, next), keys);
    Softmax<kDim, kHeadTiles>(scores, state);
    if (valid < kTileTokens) ClearInvalid<kDim>(valid, values);
    AddValues<kDim, kHeadTiles>(scores, values, state);
    if (more) LoadValues<kDim>(KeysOf<kDim>(args.layer, next) + value_offset, values);
    tile = next;
  }
}

template <int kDim, int kHeadTiles>
__global__ __launch_bounds__(kAttendThreads, kDim <= 128 ? kBlocksPerSm : 1) void AttendKernel(
    const __grid_constant__ Launched launch) {
  extern __shared__ float4 shared[];
  auto& space = *reinterpret_cast<MergeSpace<kDim, kHeadTiles>*>(shared);
  AllowNext();
  const AttendArgs& args = launch.args;
  const int split = blockIdx.x;
  const int kv_head = blockIdx.y;
  const int row = blockIdx.z;
  const int group = args.q_heads / args.layer.kv_heads;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const int first = split * kAttendWarps + static_cast<int>(threadIdx.x / 32);
  const int lane = threadIdx.x % 32;
  RowTiles tiles = RowOf(args, row, kv_head);
  uint4 q[kHeadTiles][kDim / 32];
  WarpState<kDim, kHeadTiles> state = {};
  // When a later row's turn comes its list is there, and to wait for all of them costs nothing.
  const bool looks = launch.flow.ready != nullptr && row < kLookedForRows;
  int blocks = 0;
  if (looks) {
    blocks = AwaitList(launch.flow, row);
  } else {
    WaitForPrevious();
  }
  // Asked for before the count is known, as if there were few.
  int block = BlockOf(args, tiles, first + lane * FewSplits(launch.max_splits) * kAttendWarps);
  if (tiles.selected != nullptr)
    CountTiles(args, looks ? blocks : args.counts[tiles.choice], tiles);
#pragma unroll
  for (int h = 0; h < kHeadTiles; ++h) {
    state.max[h] = -INFINITY;
    const int member = h * 8 + g;
    const auto* from = static_cast<const Bf16x*>(args.q) +
                       (int64_t{row} * args.q_heads + kv_head * group + member) * kDim + 8 * t;
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c) {
      q[h][c] = member < group ? *reinterpret_cast<const uint4*>(from + c * 32) : uint4{0, 0, 0, 0};
    }
  }
  const int splits = SplitsOf(tiles.count, launch.max_splits);
  if (split >= splits) return;
  const int step = MostSplits(tiles.count, launch.max_splits) * kAttendWarps;
  if (tiles.count > kFewTiles) block = BlockOf(args, tiles, first + lane * step);
  StreamTiles<kDim, kHeadTiles>(args, tiles, kv_head, first, step, block, q, state);
  WriteState(state, space);
  __syncthreads();
  float* partial = nullptr;
  if (splits > 1) {
    const int64_t pair = int64_t{row} * args.layer.kv_heads + kv_head;
    partial =
        launch.partials + (pair * launch.max_splits + split) * group * (kPartialHeader + kDim);
  }
  MergeWarps(args, space, row, kv_head, group, partial);
}

// Merges the splits of every row and head that has several.
template <int kDim>
__global__ __launch_bounds__(kMergeThreads) void MergeKernel(
    const __grid_constant__ Launched launch) {
  AllowNext();
  const AttendArgs& args = launch.args;
  const int head = blockIdx.x;
  const int row = blockIdx.y;
  const int group = args.q_heads / args.layer.kv_heads;
  const int kv_head = head / group;
  RowTiles tiles = RowOf(args, row, kv_head);
  const int64_t pair = int64_t{row} * args.layer.kv_heads + kv_head;
  const float* partials =
      launch.partials + (pair * launch.max_splits * group + head % group) * (kPartialHeader + kDim);
  WaitForPrevious();
  if (launch.flow.ready != nullptr && head == 0 && threadIdx.x == 0) launch.flow.ready[row] = 0;
  if (tiles.selected != nullptr) CountTiles(args, args.counts[tiles.choice], tiles);
  const int splits = SplitsOf(tiles.count, launch.max_splits);
  if (splits > 1)
    MergeSplits<kDim>(args, row, head, splits, group * (kPartialHeader + kDim), partials);
}

template <int kDim, int kHeadTiles>
cudaError_t LaunchShape(const LaunchContext& ctx, const Launched& launch, int splits) {
  constexpr int kSharedBytes = sizeof(MergeSpace<kDim, kHeadTiles>);
  const cudaError_t error = cudaFuncSetAttribute(
      AttendKernel<kDim, kHeadTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(splits, launch.args.layer.kv_heads, launch.args.batch.num_seqs);
  return Launch(ctx, AttendKernel<kDim, kHeadTiles>, grid, kAttendThreads, kSharedBytes, launch);
}

template <int kDim>
cudaError_t LaunchDim(const LaunchContext& ctx, const Launched& launch, int splits) {
  const bool wide = launch.args.q_heads / launch.args.layer.kv_heads > 8;
  const cudaError_t error =
      wide ? LaunchShape<kDim, 2>(ctx, launch, splits) : LaunchShape<kDim, 1>(ctx, launch, splits);
  if (error != cudaSuccess || splits == 1) return error;
  return Launch(ctx, MergeKernel<kDim>, dim3(launch.args.q_heads, launch.args.batch.num_seqs),
                kMergeThreads, 0, launch);
}

}  // namespace

bool AttendIsSpecialised(const KvLayer& layer, int32_t q_heads) {
  const bool dim = layer.head_dim == 64 || layer.head_dim == 128 || layer.head_dim == 256;
  return dim && layer.block_tokens % kTileTokens == 0 && q_heads / layer.kv_heads <= 16;
}

size_t AttendScratchBytes(const LaunchContext& ctx, const AttendArgs& args) {
  return size_t{4} * args.batch.num_seqs * args.q_heads * MaxSplits(ctx, args.layer.kv_heads) *
         (kPartialHeader + args.layer.head_dim);
}

cudaError_t LaunchAttend(const LaunchContext& ctx, const AttendArgs& args, void* scratch,
                         const RowFlow& flow) {
  const Launched launch = {args, static_cast<float*>(scratch), MaxSplits(ctx, args.layer.kv_heads),
                           flow};
  const int tiles = CeilDiv(args.batch.max_kv_len, args.layer.block_tokens) *
                    (args.layer.block_tokens / kTileTokens);
  const int most = CeilDiv(tiles, kAttendWarps);
  const int splits = most < launch.max_splits ? (most > 1 ? most : 1) : launch.max_splits;
  switch (args.layer.head_dim) {
    case 64:
      return LaunchDim<64>(ctx, launch, splits);
    case 128:
      return LaunchDim<128>(ctx, launch, splits);
    default:
      return LaunchDim<256>(ctx, launch, splits);
  }
}

cudaError_t LaunchAttend(const LaunchContext& ctx, const AttendArgs& args, void* scratch) {
  return LaunchAttend(ctx, args, scratch, RowFlow{});
}

}  // namespace spotd::kernels::cuda
