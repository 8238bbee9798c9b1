// Causal prefill attention over the paged cache for Hopper, head_dim 128.
//
// A thread block takes 128 rows of one head. One warp of the first warpgroup copies K and V tiles
// of 128 tokens, a box per block and half head, through the tensor copy engine into two stages; two
// warpgroups of 64 rows each multiply by wgmma. The product q k^T of the next tile is issued before
// the softmax of this one, and runs under it. Tiles go from the diagonal back to the start, so that
// masking is a matter of the first tiles.
#include "kernels/cuda/attend_prefill_sm90.h"

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kDim = 128;
constexpr int kHalf = 64;  // dims in one 128-byte row of shared memory
constexpr int kRows = 128;
constexpr int kTokens = 128;
constexpr int kStages = 2;
constexpr int kThreads = 384;
constexpr int kConsumers = 256;
constexpr int kConsumerWarps = 8;
constexpr int kTileBytes = kTokens * kHalf * 2;  // one half of K or V

// [half][row][64] bf16, 128-byte swizzle: the 16-byte column c of row r is stored at c ^ (r % 8).
struct alignas(1024) Tile {
  Bf16x at[2][kTokens][kHalf];
};

struct Space {
  Tile q;
  Tile k[kStages];
  Tile v[kStages];
  uint64_t k_full[kStages];
  uint64_t v_full[kStages];
  uint64_t k_empty[kStages];
  uint64_t v_empty[kStages];
};

struct Problem {
  PrefillAttendArgs args;
  int tiles;
  int box_tokens;
};

// Which tile of tokens the i-th iteration takes: from the diagonal back.
__device__ inline int TileOf(int steps, int i) {
  return steps - 1 - i;
}

// The copying warp: one lane per box of tokens.
__device__ inline void Produce(const CUtensorMap& map, const Problem& problem, const RowTile& rows,
                               int kv_head, Space& space) {
  const int lane = threadIdx.x % 32;
  const int block_tokens = problem.args.layer.block_tokens;
  const int tokens = rows.first_token + rows.rows;
  const int steps = (tokens + kTokens - 1) / kTokens;
  for (int i = 0; i < steps; ++i) {
    const int stage = i % kStages;
    const int first = TileOf(steps, i) * kTokens + lane * problem.box_tokens;
    const bool mine = lane < kTokens / problem.box_tokens && first < tokens;
    const int boxes = __popc(__ballot_sync(kFullMask, mine));
    const int physical =
        mine ? PhysicalBlock(problem.args.batch, rows.seq, first / block_tokens) : 0;
    const int within = first % block_tokens;
    const int parity = (i / kStages + 1) % 2;
    for (int kind = 0; kind < 2; ++kind) {
      uint64_t* full = kind == 0 ? &space.k_full[stage] : &space.v_full[stage];
      Tile& tile = kind == 0 ? space.k[stage] : space.v[stage];
      BarrierWait(kind == 0 ? &space.k_empty[stage] : &space.v_empty[stage], parity);
      if (lane == 0) BarrierExpect(full, boxes * problem.box_tokens * kDim * 2);
      __syncwarp();
      if (mine) {
        const int row = lane * problem.box_tokens;
        CopyBox(&tile.at[0][row][0], &map, full, 0, within, kv_head, kind, physical);
        CopyBox(&tile.at[1][row][0], &map, full, kHalf, within, kv_head, kind, physical);
      }
    }
  }
}

// One warpgroup's 64 rows of q into shared memory, in the swizzled layout; absent rows become
// zeros.
__device__ inline void LoadQuery(const PrefillAttendArgs& args, const RowTile& rows, int head,
                                 Tile& q) {
  const int consumer = static_cast<int>(threadIdx.x) - (kThreads - kConsumers);
  for (int i = consumer; i < kRows * kDim / 8; i += kConsumers) {
    const int row = i / (kDim / 8);
    const int chunk = i % (kDim / 8);
    const int64_t at = (int64_t{rows.first_row + row} * args.q_heads + head) * kDim + chunk * 8;
    const uint4 value =
        row < rows.rows ? *reinterpret_cast<const uint4*>(static_cast<const Bf16x*>(args.q) + at)
                        : uint4{0, 0, 0, 0};
    *reinterpret_cast<uint4*>(&q.at[chunk / 8][row][((chunk % 8) ^ (row % 8)) * 8]) = value;
  }
}

__device__ inline void SharedWritesVisible() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void SyncConsumers() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

// Rows from `valid` on hold what memory held, NaN included; their weights are zero, so make them
// zero as well.
__device__ inline void ClearInvalid(int valid, Tile& v) {
  const int consumer = static_cast<int>(threadIdx.x) - (kThreads - kConsumers);
  const int rows = kTokens - valid;
  for (int i = consumer; i < rows * kDim / 8; i += kConsumers) {
    const int row = valid + i % rows;
    const int chunk = i / rows;
    *reinterpret_cast<uint4*>(&v.at[chunk / 8][row][chunk % 8 * 8]) = {0, 0, 0, 0};
  }
  SharedWritesVisible();
  SyncConsumers();
}

struct SoftmaxState {
  float max[2];  // rows g and g + 8 of the warp, log2 domain
  float sum[2];  // this lane's part
};

// Scores to weights in place; `keep` is what earlier sums are multiplied by.
__device__ inline void Softmax(float (&scores)[64], float scale, SoftmaxState& state,
                               float (&keep)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float max = state.max[r];
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n)
      max = fmaxf(max, fmaxf(scores[n * 4 + 2 * r], scores[n * 4 + 2 * r + 1]));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
    const float base = max == -INFINITY ? 0.0f : max * scale;
    keep[r] = Exp2(state.max[r] * scale - base);
    state.max[r] = max;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int i = n * 4 + 2 * r; i < n * 4 + 2 * r + 2; ++i) {
        scores[i] = Exp2(fmaf(scores[i], scale, -base));
        sum += scores[i];
      }
    }
    state.sum[r] = state.sum[r] * keep[r] + sum;
  }
}

// Hides tokens after each row's own. `token` is the own token of row g, relative to the tile's
// first.
__device__ inline void Mask(float (&scores)[64], int token) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n * 8 + 2 * t + i % 2 > token + i / 2 * 8) scores[n * 4 + i] = -INFINITY;
    }
  }
}

// Issues scores = q k^T for a warpgroup's rows.
__device__ inline void IssueScores(const Tile& q, const Tile& k, int warpgroup,
                                   float (&scores)[64]) {
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const int half = step / 4;
    const int column = step % 4 * 16;
    WgmmaShared(scores, TileDescriptor(&q.at[half][warpgroup * 64][column], 16),
                TileDescriptor(&k.at[half][0][column], 16), step > 0);
  }
  WgmmaCommit();
}

// Issues out += weights v.
__device__ inline void IssueValues(const uint32_t (&weights)[kTokens / 16][4], const Tile& v,
                                   float (&out)[64]) {
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kTokens / 16; ++step) {
    WgmmaRegister(out, weights[step], TileDescriptor(&v.at[0][step * 16][0], kTileBytes));
  }
  WgmmaCommit();
}

__device__ inline void PackWeights(const float (&scores)[64],
                                   uint32_t (&weights)[kTokens / 16][4]) {
#pragma unroll
  for (int step = 0; step < kTokens / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      weights[step][i] = PackBf16(scores[step * 8 + 2 * i], scores[step * 8 + 2 * i + 1]);
  }
}

__device__ inline void WriteRows(const PrefillAttendArgs& args, const RowTile& rows, int head,
                                 int first_local, const float (&out)[64],
                                 const SoftmaxState& state) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(kFullMask, sum, 1);
    sum += __shfl_xor_sync(kFullMask, sum, 2);
    const int local = first_local + 8 * r;
    if (local >= rows.rows) continue;
    const int64_t at = int64_t{rows.first_row + local} * args.q_heads + head;
    const float inverse = 1.0f / sum;
    auto* to = static_cast<Bf16x*>(args.out) + at * kDim + 2 * t;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to + n * 8) =
          PackBf16(out[n * 4 + 2 * r] * inverse, out[n * 4 + 2 * r + 1] * inverse);
    }
    if (t == 0 && args.lse != nullptr) {
      args.lse[at] = (state.max[r] * args.scale * kLog2E + __log2f(sum)) * kLn2;
    }
  }
}

// A multiplying warpgroup (0 or 1).
__device__ inline void Consume(const Problem& problem, const RowTile& rows, int head, int warpgroup,
                               Space& space) {
  const int lane = threadIdx.x % 32;
  const int first_local = warpgroup * 64 + static_cast<int>(threadIdx.x / 32 % 4) * 16 + lane / 4;
  const float scale = problem.args.scale * kLog2E;
  const int tokens = rows.first_token + rows.rows;
  const int steps = (tokens + kTokens - 1) / kTokens;
  LoadQuery(problem.args, rows, head, space.q);
  SharedWritesVisible();
  SyncConsumers();

  float scores[64];
  float out[64] = {};
  uint32_t weights[kTokens / 16][4];
  float keep[2];
  SoftmaxState state = {{-INFINITY, -INFINITY}, {0, 0}};
  const auto prepare = [&](int i) {
    const int first = TileOf(steps, i) * kTokens;
    // The warp's first row sees tokens up to its own; later rows see more.
    if (first + kTokens - 1 > rows.first_token + warpgroup * 64)
      Mask(scores, rows.first_token + first_local - first);
    Softmax(scores, scale, state, keep);
  };
  const auto wait_values = [&](int i) {
    BarrierWait(&space.v_full[i % kStages], i / kStages % 2);
    const int valid = tokens - TileOf(steps, i) * kTokens;
    if (valid < kTokens) ClearInvalid(valid, space.v[i % kStages]);
  };

  BarrierWait(&space.k_full[0], 0);
  IssueScores(space.q, space.k[0], warpgroup, scores);
  WgmmaWait<0>(scores);
  if (lane == 0) BarrierArrive(&space.k_empty[0]);
  prepare(0);
  PackWeights(scores, weights);
  for (int i = 1; i < steps; ++i) {
    BarrierWait(&space.k_full[i % kStages], i / kStages % 2);
    IssueScores(space.q, space.k[i % kStages], warpgroup, scores);
    wait_values(i - 1);
    IssueValues(weights, space.v[(i - 1) % kStages], out);
    WgmmaWait<1>(scores);
    if (lane == 0) BarrierArrive(&space.k_empty[i % kStages]);
    prepare(i);
    WgmmaWait<0>(out);
    if (lane == 0) BarrierArrive(&space.v_empty[(i - 1) % kStages]);
#pragma unroll
    for (int n = 0; n < 64; ++n) out[n] *= keep[n / 2 % 2];
    PackWeights(scores, weights);
  }
  wait_values(steps - 1);
  IssueValues(weights, space.v[(steps - 1) % kStages], out);
  WgmmaWait<0>(out);
  WriteRows(problem.args, rows, head, first_local, out, state);
}

__global__ __launch_bounds__(kThreads,
                             1) void PrefillSm90Kernel(const __grid_constant__ CUtensorMap map,
                                                       const __grid_constant__ Problem problem) {
  extern __shared__ char shared[];
  auto& space =
      *reinterpret_cast<Space*>((reinterpret_cast<uintptr_t>(shared) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(&space.k_full[s], 1);
      BarrierInit(&space.v_full[s], 1);
      BarrierInit(&space.k_empty[s], kConsumerWarps);
      BarrierInit(&space.v_empty[s], kConsumerWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  AllowNext();
  WaitForPrevious();
  // The longest tiles first: they are the last of each sequence.
  const RowTile rows =
      FindRowTile(problem.args.batch, problem.tiles - 1 - static_cast<int>(blockIdx.y), kRows);
  if (rows.seq < 0) return;
  const int head = blockIdx.x;
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x < 32)
      Produce(map, problem, rows, head / (problem.args.q_heads / problem.args.layer.kv_heads),
              space);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    Consume(problem, rows, head, warpgroup - 1, space);
  }
}

// The cache of one layer as a tensor [blocks][K, V][heads][tokens][dims], copied in boxes of
// `box_tokens` x 64 dims.
bool DescribeCache(const KvLayer& layer, int box_tokens, CUtensorMap* map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                     &result);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return false;
  const auto tokens = static_cast<cuuint64_t>(layer.block_tokens);
  const auto heads = static_cast<cuuint64_t>(layer.kv_heads);
  const cuuint64_t row_bytes = kDim * 2;
  const cuuint64_t sizes[5] = {kDim, tokens, heads, 2, static_cast<cuuint64_t>(layer.num_blocks)};
  const cuuint64_t strides[4] = {row_bytes, row_bytes * tokens, row_bytes * tokens * heads,
                                 row_bytes * tokens * heads * 2};
  const cuuint32_t box[5] = {kHalf, static_cast<cuuint32_t>(box_tokens), 1, 1, 1};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, layer.kv, sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool PrefillSm90Takes(const LaunchContext& ctx, const PrefillAttendArgs& args) {
  return ctx.hopper && args.layer.head_dim == kDim && args.batch.num_rows >= kRows &&
         kTokens % args.layer.block_tokens == 0;
}

cudaError_t LaunchPrefillSm90(const LaunchContext& ctx, const PrefillAttendArgs& args) {
  CUtensorMap map;
  const Problem problem = {args, MaxRowTiles(args.batch, kRows), args.layer.block_tokens};
  if (!DescribeCache(args.layer, problem.box_tokens, &map)) return cudaErrorNotSupported;
  constexpr int kSharedBytes = sizeof(Space) + 1024;
  const cudaError_t error = cudaFuncSetAttribute(
      PrefillSm90Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  return Launch(ctx, PrefillSm90Kernel, dim3(args.q_heads, problem.tiles), kThreads, kSharedBytes,
                map, problem);
}

}  // namespace spotd::kernels::cuda
