// From block masses to the blocks a row reads, as select.cu, by a cluster of thread blocks: the
// form of Hopper for rows of up to 65536 blocks.
//
// Every thread keeps its blocks' scores in registers. The members exchange what they know by
// messages (peer.cuh), four times: the extremes; each member's bins, to the member that owns them;
// the sums of the bins, to everyone; and how many blocks each is sure of, with its candidates, the
// blocks of the bin in which the rule stops. Then all members rank all candidates alike, know how
// many blocks come before their own, and write their part of the list. A message takes about as
// long as a read of the L2 cache. A member with more candidates than a message holds makes all
// members bisect over the ordered keys instead: slower, never lossy.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_flow.cuh"
#include "kernels/cuda/select_cluster.h"
#include "kernels/cuda/select_cluster_bisect.cuh"
#include "kernels/cuda/select_cluster_state.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kMostFlowItems = 2;  // blocks of a thread where rows flow

// Where a row's scores are: all there, or arriving one by one (row_flow.h).
struct WrittenScores {
  const float* lse;
  __device__ float Load(int32_t block) const { return __ldcg(lse + block); }
};
struct ArrivingScores {
  const uint32_t* posts;
  __device__ float Load(int32_t block) const { return FromOrder(AwaitScore(posts + block)); }
};

// The reserved blocks' largest score and mass, by one warp.
template <int kItems, typename Scores>
__device__ inline void WeighReserved(const ClusterRow<kItems>& row, const Scores& from,
                                     ClusterShared& s) {
  const auto load = [&](int i) {
    const int32_t b =
        i < row.plan.sink_blocks ? i : row.plan.recent_begin + i - row.plan.sink_blocks;
    return fmaxf(from.Load(b), -INFINITY);
  };
  const int lane = threadIdx.x % 32;
  const int count = row.plan.reserved();
  const float held = lane < count ? load(lane) : -INFINITY;
  float max = held;
  for (int i = lane + 32; i < count; i += 32) max = fmaxf(max, load(i));
  max = WarpMax(max);
  uint64_t mass = lane < count ? BudgetMass(held, max) : 0;
  for (int i = lane + 32; i < count; i += 32) mass += BudgetMass(load(i), max);
  mass = WarpAdd(mass);
  if (lane == 0) {
    s.reserved_mass = mass;
    s.reserved_max = max;
  }
  __syncwarp();
}

template <int kItems, typename Scores>
__device__ inline void FindExtremes(ClusterRow<kItems>& row, const Scores& from, ClusterShared& s) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int k = 0; k < kItems; ++k)
    row.x[k] = row.Block(k) < row.plan.blocks ? from.Load(row.Block(k)) : -INFINITY;
  float top = -INFINITY;
  float bottom = INFINITY;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    row.x[k] = fmaxf(row.x[k], -INFINITY);
    if (!row.IsResidual(row.Block(k))) continue;
    top = fmaxf(top, row.x[k]);
    if (row.x[k] > -INFINITY) bottom = fminf(bottom, row.x[k]);
  }
  uint2 own = {__reduce_max_sync(kFullMask, BudgetOrder(top)),
               __reduce_max_sync(kFullMask, ~BudgetOrder(bottom))};
  if (lane == 0) s.extremes_of_warp[warp] = own;
  __syncthreads();
  ClusterWait();  // everyone's barriers are open
  if (warp == 0) {
    own = s.extremes_of_warp[lane % kWarps];
    own = {__reduce_max_sync(kFullMask, own.x), __reduce_max_sync(kFullMask, own.y)};
    if (lane < row.members) {
      Send(lane, &s.extremes[row.me], static_cast<uint64_t>(own.x) << 32 | own.y,
           &s.barriers[kExtremes]);
    }
  } else if (warp == kWarps - 1) {
    WeighReserved(row, from, s);
  }
  BarrierWait(&s.barriers[kExtremes], 0);
  const uint64_t all = s.extremes[lane & (row.members - 1)];
  row.top = FromOrder(__reduce_max_sync(kFullMask, static_cast<uint32_t>(all >> 32)));
  const float least =
      FromOrder(~__reduce_max_sync(kFullMask, static_cast<uint32_t>(all & 0xffffffffu)));
  const float range = row.top - least;
  const float reach = row.rule.kind == BudgetKind::kDualTopP ? fminf(range, kMassRange) : range;
  row.scale = range > 0 ? __fdividef(static_cast<float>(kBins - 1), reach) : 1.0f;
  if (!(row.scale > 0)) row.scale = FLT_MIN;  // a range beyond the division's
  row.origin = row.top * row.scale;
  if (threadIdx.x == kThreads - 1) s.reserved_scale = ReservedScale(s.reserved_max, row.top);
}

// The bins of all members, summed, to every member: through the member that owns each slice.
template <int kItems>
__device__ inline void ShareBins(const ClusterRow<kItems>& row, ClusterShared& s) {
  const int thread = threadIdx.x;
  const uint64_t first = HistogramBin<kItems>(s, 2 * thread);
  const uint64_t second = HistogramBin<kItems>(s, 2 * thread + 1);
  const int slice = kBins >> row.log_members;
  const int owner = 2 * thread >> (kLogBins - row.log_members);
  Send2(owner, &s.parts[row.me * (slice + kSlicePad) + (2 * thread & (slice - 1))], first, second,
        &s.barriers[kParts]);
  BarrierWait(&s.barriers[kParts], 0);
  // members / 2 threads a bin, each with two senders' parts and two receivers.
  const int party = row.members / 2;
  const int bin = thread >> (row.log_members - 1);
  const int at = thread & (party - 1);
  uint64_t sum =
      s.parts[at * (slice + kSlicePad) + bin] + s.parts[(at + party) * (slice + kSlicePad) + bin];
  for (int offset = 1; offset < party; offset *= 2)
    sum += __shfl_xor_sync(kFullMask, static_cast<unsigned long long>(sum), offset);
  Send(at, &s.bins[row.me * slice + bin], sum, &s.barriers[kSums]);
  Send(at + party, &s.bins[row.me * slice + bin], sum, &s.barriers[kSums]);
  BarrierWait(&s.barriers[kSums], 0);
}

// Finds the bin in which the rule stops, and what lies before it.
template <int kItems>
__device__ inline void FindBoundary(ClusterRow<kItems>& row, ClusterShared& s) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const ulonglong2 bins = *reinterpret_cast<const ulonglong2*>(&s.bins[2 * threadIdx.x]);
  uint64_t upto = bins.x + bins.y;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t below = ShuffleUp(upto, offset);
    if (lane >= offset) upto += below;
  }
  if (lane == 31) s.of_warp[warp] = upto;
  __syncthreads();
  uint64_t of_warps = s.of_warp[lane & (kWarps - 1)];
#pragma unroll
  for (int offset = 1; offset < kWarps; offset *= 2) {
    const uint64_t below = ShuffleUp(of_warps, offset);
    if (lane >= offset) of_warps += below;
  }
  const uint64_t all = ShuffleFrom(of_warps, kWarps - 1);
  const uint64_t earlier = ShuffleFrom(of_warps, max(warp - 1, 0));
  const uint64_t before = upto - bins.x - bins.y + (warp > 0 ? earlier : 0);
  row.masses = {s.reserved_mass, MassOf(all), s.reserved_max, row.top};
  row.needed = NeededMass(row.rule, row.masses, s.reserved_scale);
  const uint64_t middle = before + bins.x;
  const bool stops = row.WantsMore(before) && !row.WantsMore(middle + bins.y);
  if (stops) {
    const bool in_first = !row.WantsMore(middle);
    s.boundary_bin = 2 * static_cast<int>(threadIdx.x) + (in_first ? 0 : 1);
    s.before_bin = in_first ? before : middle;
  }
  __syncthreads();
}

// Sets the bits of what is chosen whatever the candidates' ranks, lists this member's candidates
// and tells the others.
template <int kItems>
__device__ inline void MarkAndTell(const ClusterRow<kItems>& row, ClusterShared& s) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int boundary = s.boundary_bin;
  uint32_t sure = 0;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t b = row.Block(k);
    const uint32_t word =
        __ballot_sync(kFullMask, row.bin[k] >= 0 ? row.bin[k] < boundary : row.IsReserved(b));
    if (lane == 0) s.bits[warp * kItems + k] = word;
    sure += __popc(word);
    if (row.bin[k] >= 0 && row.bin[k] == boundary) {
      const int at = atomicAdd(&s.num_candidates, 1);
      if (at < kWords - 1) {
        const uint64_t order = BudgetOrder(row.x[k]);
        s.listed[at + 1] = {order << 32 | ~static_cast<uint32_t>(b), Pack(1, row.mass[k])};
      }
    }
  }
  if (lane == 0 && sure != 0) atomicAdd(&s.sure, sure);
  __syncthreads();
  if (warp < row.members) {
    Ranked word = s.listed[lane];
    if (lane == 0) word.order = static_cast<uint64_t>(s.num_candidates) << 32 | s.sure;
    Send2(warp, &s.messages[row.me][lane], word.order, word.tally, &s.barriers[kCandidates]);
  }
  BarrierWait(&s.barriers[kCandidates], 0);
}

// Ranks all candidates, a thread per candidate, and sets the bits of this member's chosen ones.
template <int kItems>
__device__ inline void Rank(const ClusterRow<kItems>& row, ClusterShared& s) {
  const int lane = threadIdx.x % 32;
  const int from = threadIdx.x / 32;  // the warp's sender
  const uint64_t header = lane < row.members ? s.messages[lane][0].order : 0;
  const auto count = static_cast<uint32_t>(header >> 32);
  uint32_t upto = count;
#pragma unroll
  for (int offset = 1; offset < kMostMembers; offset *= 2) {
    const uint32_t below = __shfl_up_sync(kFullMask, upto, offset);
    if (lane >= offset) upto += below;
  }
  const uint32_t total = __shfl_sync(kFullMask, upto, kMostMembers - 1);
  const uint32_t listed = __shfl_sync(kFullMask, count, from);
  const uint32_t first = __shfl_sync(kFullMask, upto, from) - listed;
  if (lane > 0 && static_cast<uint32_t>(lane) <= listed) {
    s.ranked[first + lane - 1] = s.messages[from][lane];
  }
  if (from == 0 && lane < row.members) s.count_of[lane] = static_cast<uint32_t>(header);
  __syncthreads();
  // By as few warps as there are candidates for: the others would only take their turns away.
  if (threadIdx.x < total) {
    const Ranked own = s.ranked[threadIdx.x];
    uint64_t before = s.before_bin;
#pragma unroll 4
    for (uint32_t i = 0; i < total; ++i) {
      const Ranked other = s.ranked[i];
      if (other.order > own.order) before += other.tally;
    }
    if (row.WantsMore(before)) {
      const uint64_t after = before + own.tally;
      if (!row.WantsMore(after)) s.taken = MassOf(after);  // the last one chosen
      const auto b = static_cast<int32_t>(~static_cast<uint32_t>(own.order));
      const int owner = b / (kThreads * kItems);
      atomicAdd(&s.count_of[owner], 1);
      const int at = b - row.FirstBlock();
      if (owner == row.me) atomicOr(&s.bits[at / 32], 1u << at % 32);
    }
  }
  __syncthreads();
}

// Marks the chosen blocks of a row whose scores matter, and counts every member's.
template <int kItems, typename Scores>
__device__ inline void ChooseByScore(ClusterRow<kItems>& row, const Scores& from,
                                     ClusterShared& s) {
  FindExtremes(row, from, s);
  FillHistogram(row, s);
  ShareBins(row, s);
  FindBoundary(row, s);
  MarkAndTell(row, s);
  const int lane = threadIdx.x % 32;
  const bool too_many = lane < row.members && s.messages[lane][0].order >> 32 > kWords - 1;
  if (__any_sync(kFullMask, too_many)) {
    Bisect(row, s);
  } else {
    Rank(row, s);
  }
}

// Where scores do not matter: the reserved blocks, or all.
template <int kItems>
__device__ inline void MarkUnscored(const ClusterRow<kItems>& row, ClusterShared& s) {
  const bool everything = row.rule.kind != BudgetKind::kReservedOnly;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t b = row.Block(k);
    const uint32_t word =
        __ballot_sync(kFullMask, everything ? b < row.plan.blocks : row.IsReserved(b));
    if (threadIdx.x % 32 == 0) s.bits[threadIdx.x / 32 * kItems + k] = word;
  }
  if (threadIdx.x < row.members) {
    const int32_t begin = static_cast<int32_t>(threadIdx.x) * kThreads * kItems;
    const int32_t end = min(row.plan.blocks, begin + kThreads * kItems);
    const int32_t residual =
        max(0, min(end, row.plan.recent_begin) - max(begin, row.plan.sink_blocks));
    s.count_of[threadIdx.x] = max(0, end - begin) - (everything ? 0 : residual);
  }
  __syncthreads();
}

// Writes this member's part of the list; returns the whole list's length.
template <int kItems>
__device__ inline uint32_t WriteList(const ClusterRow<kItems>& row, const ClusterShared& s,
                                     int32_t* selected) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const uint32_t count = lane < row.members ? s.count_of[lane] : 0;
  uint32_t of_warp = 0;
  if (lane < kWarps) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) of_warp += __popc(s.bits[lane * kItems + k]);
  }
  uint32_t at =
      __reduce_add_sync(kFullMask, (lane < row.me ? count : 0) + (lane < warp ? of_warp : 0));
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const uint32_t word = s.bits[warp * kItems + k];
    if ((word >> lane & 1) != 0) selected[at + __popc(word & ((1u << lane) - 1))] = row.Block(k);
    at += __popc(word);
  }
  return __reduce_add_sync(kFullMask, count);
}

// What a member knows of its row, and what the cluster needs before its first message.
template <int kItems>
__device__ inline int OpenRow(const SelectArgs& args, ClusterRow<kItems>& row, ClusterShared& s) {
  row.members = ClusterSize();
  row.log_members = __ffs(row.members) - 1;
  row.me = ClusterRank();
  const int choice = static_cast<int>(blockIdx.x) >> row.log_members;
  row.rule = args.rules[choice / args.groups];
  row.plan = PlanBudget(row.rule, args.batch.kv_len[choice / args.groups], args.block_tokens);
  for (int i = threadIdx.x; i < 3 * kBins; i += kThreads) s.histogram[i / kBins][i % kBins] = 0;
  OpenExchanges(s, row.members);
  if (threadIdx.x == 0) {
    s.boundary_bin = -1;
    s.before_bin = 0;
    s.num_candidates = 0;
    s.sure = 0;
    s.taken = 0;
  }
  __syncwarp();
  ClusterArriveRelaxed();
  return choice;
}

// Writes this member's part of the choice.
template <int kItems>
__device__ inline void WriteChoice(const SelectArgs& args, const ClusterRow<kItems>& row,
                                   const ClusterShared& s, int choice, bool scored) {
  const uint32_t count = WriteList(row, s, args.selected + int64_t{choice} * args.selected_stride);
  if (row.me != 0 || threadIdx.x != 0) return;
  args.counts[choice] = static_cast<int32_t>(count);
  args.covered_mass[choice] = scored ? CoveredMass(row.masses, s.taken) : 1.0f;
}

template <int kItems>
__global__ __launch_bounds__(kThreads) void SelectClusterKernel(
    const __grid_constant__ SelectArgs args) {
  __shared__ ClusterShared s;
  AllowNext();
  ClusterRow<kItems> row;
  const int choice = OpenRow(args, row, s);
  WaitForPrevious();

  const bool scored = IsScored(row.rule, row.plan);
  if (scored) {
    ChooseByScore(row, WrittenScores{args.block_lse + int64_t{choice} * args.lse_stride}, s);
  } else {
    MarkUnscored(row, s);
    ClusterWait();
  }
  WriteChoice(args, row, s, choice, scored);
}

// The same as a row's scores arrive. With one block a thread there is room for it beside thread
// blocks that score.
template <int kItems>
__global__ __launch_bounds__(kThreads, kItems == 1 ? 3 : 1) void SelectRowsKernel(
    const __grid_constant__ SelectArgs args, const __grid_constant__ RowFlow flow) {
  __shared__ ClusterShared s;
  AllowNext();
  ClusterRow<kItems> row;
  const int choice = OpenRow(args, row, s);
  const bool scored = IsScored(row.rule, row.plan);
  if (scored) {
    uint32_t* posts = flow.scores + int64_t{choice} * flow.stride;
    ChooseByScore(row, ArrivingScores{posts}, s);
    // All members have weighed what is reserved before they shared their bins: nobody reads a
    // score again.
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (row.Block(k) < row.plan.blocks) posts[row.Block(k)] = 0;
    }
  } else {
    MarkUnscored(row, s);
    ClusterWait();
    WaitForPrevious();  // an earlier step's attention may be reading the list
  }
  WriteChoice(args, row, s, choice, scored);
  __syncthreads();
  if (threadIdx.x == 0) AnnounceMember(flow, choice, s.count_of[row.me]);
  // One thread block that waits makes this kernel end after the one before.
  if (blockIdx.x == gridDim.x - 1) WaitForPrevious();
}

// A cluster stays within one of the card's eight parts at most: of 114 multiprocessors, one part
// has 16 of them. A slice of a card promises eight.
int MostMembers(const LaunchContext& ctx) {
  return ctx.sm_count >= 114 ? kMostMembers : 8;
}

template <typename... Params>
cudaError_t LaunchMembers(const LaunchContext& ctx, void (*kernel)(Params...), int choices,
                          int members, Params... args) {
  if (members > 8) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return error;
  }
  return LaunchCluster(ctx, kernel, choices * members, kThreads, 0, members, args...);
}

// One block a thread where the device has room for it. Messages need a cluster, so two at least.
int MembersOf(const LaunchContext& ctx, int blocks, int choices) {
  int members = 2;
  while (members < MostMembers(ctx) && members * kThreads < blocks) members *= 2;
  while (members > 2 && choices * members > ctx.sm_count &&
         members / 2 * kThreads * kMostItems >= blocks) {
    members /= 2;
  }
  return members;
}

int BlocksOf(const SelectArgs& args) {
  return CeilDiv(args.batch.max_kv_len, args.block_tokens);
}

}  // namespace

bool SelectFitsCluster(const LaunchContext& ctx, int blocks) {
  return ctx.hopper && blocks <= MostMembers(ctx) * kThreads * kMostItems;
}

cudaError_t LaunchSelectCluster(const LaunchContext& ctx, const SelectArgs& args) {
  const int choices = args.batch.num_seqs * args.groups;
  const int members = MembersOf(ctx, BlocksOf(args), choices);
  const int items = CeilDiv(BlocksOf(args), members * kThreads);
  const auto launch = [&](auto* kernel) {
    return LaunchMembers(ctx, kernel, choices, members, args);
  };
  if (items <= 1) return launch(SelectClusterKernel<1>);
  if (items <= 2) return launch(SelectClusterKernel<2>);
  if (items <= 4) return launch(SelectClusterKernel<4>);
  return launch(SelectClusterKernel<8>);
}

RowFlow MakeRowFlow(const LaunchContext& ctx, const SelectorScoreArgs& score,
                    const SelectArgs& select, const AttendArgs& attend, void* memory) {
  const int rows = select.batch.num_seqs;
  const int blocks = BlocksOf(select);
  const int stride = CeilDiv(blocks, 4) * 4;
  const int members = MembersOf(ctx, blocks, rows);
  const bool together = rows < kLeastFlowRows || blocks < kLeastFlowBlocks ||
                        int64_t{rows} * stride > kMostFlowBlocks ||
                        blocks > members * kThreads * kMostFlowItems || select.groups != 1 ||
                        attend.groups != 1 || !ScoresByRow(ctx, score) ||
                        !AttendIsSpecialised(attend.layer, attend.q_heads);
  if (together) return {};
  auto* words = static_cast<uint32_t*>(memory);
  return {words + kMostFlowRows, words, stride, members};
}

cudaError_t LaunchSelectRows(const LaunchContext& ctx, const SelectArgs& args,
                             const RowFlow& flow) {
  const bool one = BlocksOf(args) <= flow.members * kThreads;
  return LaunchMembers(ctx, one ? SelectRowsKernel<1> : SelectRowsKernel<kMostFlowItems>,
                       args.batch.num_seqs, flow.members, args, flow);
}

}  // namespace spotd::kernels::cuda
