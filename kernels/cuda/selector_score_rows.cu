// Scores of int4 keys row after row, for a RowFlow: all thread blocks score a row's blocks, then
// the next row's, so that a row's scores are there while the next are being made.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_flow.cuh"
#include "kernels/cuda/select_rule.cuh"
#include "kernels/cuda/selector_int4.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kBatch = 2;  // blocks that a warp loads together, neighbours in a row
// Two thread blocks leave an SM room for one of the choice, in registers as in shared memory. A
// third would take it: thread blocks that start early crowd where the kernel before leaves room
// first. So each takes over a third of the 164 KiB that the driver sets aside, most of it unused.
constexpr int kRowWarps = 12;
constexpr int kRowBlocksPerSm = 2;
constexpr int kRowRegisters = 56;
constexpr size_t kRowSharedBytes = 56 << 10;

struct ScoreRows {
  SelectorScoreArgs score;
  const BudgetRule* rules;
  RowFlow flow;
};

// What lane l knows of row l.
struct LaneRow {
  int kv_len = 0;
  int blocks = 0;   // 0: its scores do not matter
  int batches = 0;  // of it
  int end = 0;      // of it and of those before it

  __device__ LaneRow(const ScoreRows& args, int lane) {
    if (lane < args.score.batch.num_seqs) {
      kv_len = args.score.batch.kv_len[lane];
      const BudgetRule rule = args.rules[lane];
      const BudgetPlan plan = PlanBudget(rule, kv_len, kKeyTile);
      if (IsScored(rule, plan)) blocks = plan.blocks;
    }
    batches = (blocks + kBatch - 1) / kBatch;
    end = batches;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(kFullMask, end, offset);
      if (lane >= offset) end += before;
    }
  }
};

// A batch of blocks that a warp scores.
struct Place {
  int row;
  int first;  // block
  int blocks;
  int kv_len;

  // Of all rows' batches, number `item`; it must exist.
  __device__ Place(const LaneRow& rows, int item) {
    row = __popc(__ballot_sync(kFullMask, rows.end <= item));
    first = kBatch * (item - __shfl_sync(kFullMask, rows.end - rows.batches, row));
    blocks = __shfl_sync(kFullMask, rows.blocks, row);
    kv_len = __shfl_sync(kFullMask, rows.kv_len, row);
  }
};

// The rows' queries: by as many warps as there are, each some groups of dims of a row.
template <int kGroups>
__device__ inline void QuantiseQueries(const SelectorScoreArgs& args,
                                       SharedQuery<kGroups, 1>* queries) {
  const int rows = args.batch.num_seqs;
  const int warps = max(1, min(kGroups, kRowWarps / rows));  // of a row
  const int share = (kGroups + warps - 1) / warps;
  const int parts = (kGroups + share - 1) / share;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < rows * parts; i += kRowWarps) {
    const int begin = i % parts * share;
    QuantiseQuery<kGroups, 1, true>(args, i / parts, 0, begin, min(share, kGroups - begin),
                                    queries[i / parts]);
  }
}

template <int kGroups>
__global__ __maxnreg__(kRowRegisters) void ScoreRowsKernel(const __grid_constant__ ScoreRows args) {
  constexpr int kTileBytes = kKeyTile * kGroups * 18;
  extern __shared__ float4 dynamic[];
  auto* queries = reinterpret_cast<SharedQuery<kGroups, 1>*>(dynamic);  // [rows]
  AllowNext();
  const int lane = threadIdx.x % 32;
  const SequenceBatch& batch = args.score.batch;
  const LaneRow rows(args, lane);
  const int end = __shfl_sync(kFullMask, rows.end, 31);
  const LaneKeys lane_keys =
      LaneKeysOf<kGroups>(static_cast<const uint8_t*>(args.score.layer.selector_keys));
  KeyTile<kGroups> keys[kBatch];
  const auto load = [&](const Place& place) {
    const int32_t* table = batch.block_tables + int64_t{place.row} * batch.table_stride;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t block = table[min(place.first + i, place.blocks - 1)];
      LoadTile<kGroups>(lane_keys, block * kTileBytes, keys[i]);
    }
  };
  const int step = static_cast<int>(gridDim.x) * kRowWarps;
  int item = static_cast<int>(blockIdx.x) * kRowWarps + static_cast<int>(threadIdx.x) / 32;
  Place place(rows, min(item, end - 1));
  // The step itself writes to the newest block only: older ones may be read at once.
  const bool older = item < end && place.first + kBatch < place.blocks;
  if (older) load(place);
  WaitForPrevious();
  if (!older && item < end) load(place);
  // The queries are made while the first keys are on their way.
  QuantiseQueries<kGroups>(args.score, queries);
  __syncthreads();

  while (item < end) {
    const Query<kGroups, 1> query = LoadQuery<kGroups, 1>(queries[place.row]);
    HeadProducts products[kBatch][1];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) MultiplyTile<kGroups, 1>(query, keys[i], products[i]);
    const Place own = place;
    item += step;
    if (item < end) {
      place = Place(rows, item);
      load(place);
    }
    uint32_t posts[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const float2 score = MixHeads<1, true>(products[i], nullptr);
      const int token = (own.first + i) * kKeyTile + lane / 4;
      const float scores[2] = {token < own.kv_len ? score.x : -INFINITY,
                               token + 8 < own.kv_len ? score.y : -INFINITY};
      posts[i] = BudgetOrder(BlockLse(scores));
    }
    uint32_t* to = args.flow.scores + int64_t{own.row} * args.flow.stride + own.first;
    if (lane == 0 && own.first + 1 < own.blocks) PostScores(to, posts[0], posts[1]);
    if (lane == 0 && own.first + 1 == own.blocks) PostScore(to, posts[0]);
  }
}

template <int kGroups>
cudaError_t LaunchGroups(const LaunchContext& ctx, const ScoreRows& args) {
  static_assert(sizeof(SharedQuery<kGroups, 1>) * kMostFlowRows <= kRowSharedBytes);
  const SequenceBatch& batch = args.score.batch;
  const int batches = CeilDiv(CeilDiv(batch.max_kv_len, kKeyTile), kBatch);
  const int wanted = CeilDiv(int64_t{batch.num_seqs} * batches, kRowWarps);
  const int most = kRowBlocksPerSm * ctx.sm_count;
  const cudaError_t error =
      cudaFuncSetAttribute(ScoreRowsKernel<kGroups>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kRowSharedBytes));
  if (error != cudaSuccess) return error;
  return Launch(ctx, ScoreRowsKernel<kGroups>, wanted < most ? wanted : most, kRowWarps * 32,
                kRowSharedBytes, args);
}

}  // namespace

bool ScoresByRow(const LaunchContext& ctx, const SelectorScoreArgs& args) {
  const KvLayer& layer = args.layer;
  return ctx.hopper && args.groups == 1 && args.heads <= kHeadsPerTile &&
         layer.selector_format == SelectorKeyFormat::kInt4 && layer.block_tokens == kKeyTile &&
         (layer.selector_dim == 64 || layer.selector_dim == 128) &&
         args.batch.num_seqs <= kMostFlowRows;
}

cudaError_t LaunchScoreRows(const LaunchContext& ctx, const SelectorScoreArgs& args,
                            const BudgetRule* rules, const RowFlow& flow) {
  return args.layer.selector_dim == 64 ? LaunchGroups<2>(ctx, {args, rules, flow})
                                       : LaunchGroups<4>(ctx, {args, rules, flow});
}

}  // namespace spotd::kernels::cuda
