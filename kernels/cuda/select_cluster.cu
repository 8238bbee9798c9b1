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
#include "kernels/cuda/select_cluster.h"
#include "kernels/cuda/select_cluster_state.cuh"

namespace spotd::kernels::cuda {
namespace {

// The reserved blocks' largest score and mass, by one warp.
template <int kItems>
__device__ inline void WeighReserved(const ClusterRow<kItems>& row, const float* lse,
                                     ClusterShared& s) {
  const auto load = [&](int i) {
    const int32_t b =
        i < row.plan.sink_blocks ? i : row.plan.recent_begin + i - row.plan.sink_blocks;
    return fmaxf(__ldcg(lse + b), -INFINITY);
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

template <int kItems>
__device__ inline void FindExtremes(ClusterRow<kItems>& row, const float* lse, ClusterShared& s) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int k = 0; k < kItems; ++k)
    row.x[k] = row.Block(k) < row.plan.blocks ? __ldcg(lse + row.Block(k)) : -INFINITY;
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
    WeighReserved(row, lse, s);
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

// The sum over the cluster of what take(key, block) holds for, packed; s.trials[turn % 2] keeps the
// members' parts. Turns count from 0.
template <int kItems, typename Take>
__device__ inline uint64_t Measure(const ClusterRow<kItems>& row, ClusterShared& s, int turn,
                                   const Take& take) {
  const int lane = threadIdx.x % 32;
  uint64_t sum = 0;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t b = row.Block(k);
    if (row.IsResidual(b) && take(BudgetOrder(row.x[k]), b))
      sum += Pack(1, BudgetMass(row.x[k], row.top));
  }
  sum = WarpAdd(sum);
  if (lane == 0) s.of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  uint64_t* barrier = &s.barriers[kTrial + turn % 2];
  uint64_t* parts = s.trials[turn % 2];
  if (threadIdx.x < 32) {
    sum = WarpAdd(lane < kWarps ? s.of_warp[lane] : 0);
    if (lane < row.members) Send(lane, &parts[row.me], sum, barrier);
  }
  BarrierWait(barrier, turn / 2 % 2);
  uint64_t all = 0;
  for (int m = 0; m < row.members; ++m) all += parts[m];
  __syncthreads();
  if (threadIdx.x == 0) BarrierExpect(barrier, row.members * 8);
  return all;
}

// Chooses the residual blocks by bisection, first over keys, then over the indices of equal keys.
template <int kItems>
__device__ inline void Bisect(const ClusterRow<kItems>& row, ClusterShared& s) {
  int turn = 0;
  uint32_t key = 0;  // the smallest key such that the rule wants more after every larger key
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const uint32_t trial = key | (bit - 1);
    const uint64_t above = Measure(row, s, turn++, [&](uint32_t k, int32_t) { return k > trial; });
    if (!row.WantsMore(above)) key |= bit;
  }
  const auto taken_with = [&](int32_t index) {
    return Measure(row, s, turn++,
                   [&](uint32_t k, int32_t b) { return k > key || (k == key && b < index); });
  };
  int32_t low = 0;  // the smallest index such that equal keys before it satisfy the rule
  int32_t high = row.plan.blocks;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (row.WantsMore(taken_with(middle))) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const uint64_t taken = taken_with(low);
  if (threadIdx.x == 0) s.taken = MassOf(taken);
  // Parts are of residual blocks; reserved ones are counted apart.
  if (threadIdx.x < row.members) {
    const int32_t begin = static_cast<int32_t>(threadIdx.x) * kThreads * kItems;
    const int32_t end = min(row.plan.blocks, begin + kThreads * kItems);
    const int32_t residual =
        max(0, min(end, row.plan.recent_begin) - max(begin, row.plan.sink_blocks));
    s.count_of[threadIdx.x] =
        CountOf(s.trials[(turn - 1) % 2][threadIdx.x]) + max(0, end - begin) - residual;
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t b = row.Block(k);
    const uint32_t order = BudgetOrder(row.x[k]);
    const uint32_t word =
        __ballot_sync(kFullMask, row.IsResidual(b) ? order > key || (order == key && b < low)
                                                   : row.IsReserved(b));
    if (threadIdx.x % 32 == 0) s.bits[threadIdx.x / 32 * kItems + k] = word;
  }
  __syncthreads();
}

// Marks the chosen blocks of a row whose scores matter, and counts every member's.
template <int kItems>
__device__ inline void ChooseByScore(ClusterRow<kItems>& row, const float* lse, ClusterShared& s) {
  FindExtremes(row, lse, s);
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

template <int kItems>
__global__ __launch_bounds__(kThreads) void SelectClusterKernel(
    const __grid_constant__ SelectArgs args) {
  __shared__ ClusterShared s;
  AllowNext();
  ClusterRow<kItems> row;
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
  WaitForPrevious();

  const bool scored = IsScored(row.rule, row.plan);
  if (scored) {
    ChooseByScore(row, args.block_lse + int64_t{choice} * args.lse_stride, s);
  } else {
    MarkUnscored(row, s);
    ClusterWait();
  }
  const uint32_t count = WriteList(row, s, args.selected + int64_t{choice} * args.selected_stride);
  if (row.me != 0 || threadIdx.x != 0) return;
  args.counts[choice] = static_cast<int32_t>(count);
  args.covered_mass[choice] = scored ? CoveredMass(row.masses, s.taken) : 1.0f;
}

// A cluster stays within one of the card's eight parts at most: of 114 multiprocessors, one part
// has 16 of them. A slice of a card promises eight.
int MostMembers(const LaunchContext& ctx) {
  return ctx.sm_count >= 114 ? kMostMembers : 8;
}

template <int kItems>
cudaError_t LaunchItems(const LaunchContext& ctx, const SelectArgs& args, int choices,
                        int members) {
  if (members > 8) {
    const cudaError_t error = cudaFuncSetAttribute(
        SelectClusterKernel<kItems>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return error;
  }
  return LaunchCluster(ctx, SelectClusterKernel<kItems>, choices * members, kThreads, 0, members,
                       args);
}

}  // namespace

bool SelectFitsCluster(const LaunchContext& ctx, int blocks) {
  return ctx.hopper && blocks <= MostMembers(ctx) * kThreads * kMostItems;
}

cudaError_t LaunchSelectCluster(const LaunchContext& ctx, const SelectArgs& args) {
  const int blocks = CeilDiv(args.batch.max_kv_len, args.block_tokens);
  const int choices = args.batch.num_seqs * args.groups;
  // One block a thread where the device has room for it. Messages need a cluster, so two at least.
  int members = 2;
  while (members < MostMembers(ctx) && members * kThreads < blocks) members *= 2;
  while (members > 2 && choices * members > ctx.sm_count &&
         members / 2 * kThreads * kMostItems >= blocks) {
    members /= 2;
  }
  const int items = CeilDiv(blocks, members * kThreads);
  if (items <= 1) return LaunchItems<1>(ctx, args, choices, members);
  if (items <= 2) return LaunchItems<2>(ctx, args, choices, members);
  if (items <= 4) return LaunchItems<4>(ctx, args, choices, members);
  return LaunchItems<8>(ctx, args, choices, members);
}

}  // namespace spotd::kernels::cuda
