// From block masses to the blocks a row reads: the rule of kernels/core/budget_rule.h, on the
// device.
//
// A row's blocks in order (descending lse, ties to the lower index) are never sorted. One pass sums
// the masses into 1024 bins by distance from the largest lse; a scan over the bins finds the one in
// which the rule stops; the few blocks of that bin are ranked against each other. Where too many
// blocks share a bin, a bisection over the ordered keys replaces the ranking: slower, never lossy.
// What comes out is a boundary (key, index), and a last pass writes the blocks on the good side of
// it in ascending order. All sums are integers, so the result does not depend on the schedule.
//
// One thread block serves a (row, group); for very long contexts a cluster of them, each with a
// contiguous share of the blocks, on devices that have clusters.
#include <climits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tally.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = kThreads;
constexpr int kMaxCandidates = 1024;
constexpr int kMaxCluster = 8;
// Blocks beyond this are worth a cluster: one thread block would be bound by its own arithmetic.
constexpr int kBlocksPerMember = 8192;
// Masses vanish this far under the largest lse: bins of a mass-driven rule need not reach further.
constexpr float kMassRange = 22.5f;

struct Extremes {
  float reserved_max;
  float residual_max;
  float residual_min;  // finite values only
};

// The chosen residual blocks: key > boundary key, or key equal and index below the boundary index.
struct Boundary {
  uint32_t key;
  int32_t index;
  uint64_t taken;
};

struct Candidate {
  uint32_t key;
  uint32_t mass;
  int32_t index;
};

struct Shared {
  uint32_t bin_count[kBins];
  uint32_t bin_low[kBins];  // sums of the masses' low and high halves: 32-bit atomics are native
  uint32_t bin_high[kBins];
  Candidate candidates[kMaxCandidates];
  int32_t candidate_count;
  uint64_t totals[2];  // reserved, residual
  Extremes extremes;
  TallySpace tally;
  Boundary boundary;
  int32_t boundary_bin;  // -1: none
  Tally before_bin;
  uint32_t warp_count[kWarps];
  uint32_t member_count;
};

// A row's problem as every thread knows it.
struct RowProblem {
  BudgetRule rule;
  BudgetPlan plan;
  const float* lse;
  int32_t begin;  // this member's blocks
  int32_t end;
  double needed;
  float top;    // residual maximum
  float scale;  // bins per unit of lse
};

__device__ inline bool IsReserved(const BudgetPlan& plan, int32_t block) {
  return block < plan.sink_blocks || block >= plan.recent_begin;
}

__device__ inline int BinOf(const RowProblem& p, float lse) {
  const float distance = (p.top - lse) * p.scale;
  return distance < static_cast<float>(kBins - 1) ? static_cast<int>(distance)
                                                  : kBins - 1;  // NaN goes last
}

template <bool kCluster>
__device__ inline Extremes FindExtremes(const RowProblem& p, Shared& shared, float* scratch) {
  Extremes mine = {-INFINITY, -INFINITY, INFINITY};
  for (int b = p.begin + static_cast<int>(threadIdx.x); b < p.end; b += kThreads) {
    const float lse = p.lse[b];
    if (IsReserved(p.plan, b)) {
      mine.reserved_max = fmaxf(mine.reserved_max, lse);  // fmaxf ignores NaN
    } else {
      mine.residual_max = fmaxf(mine.residual_max, lse);
      if (lse > -INFINITY) mine.residual_min = fminf(mine.residual_min, lse);
    }
  }
  mine.reserved_max = BlockReduce<true>(mine.reserved_max, scratch);
  mine.residual_max = BlockReduce<true>(mine.residual_max, scratch);
  mine.residual_min = -BlockReduce<true>(-mine.residual_min, scratch);
  if constexpr (kCluster) {
    if (threadIdx.x == 0) shared.extremes = mine;
    ClusterSync();
    for (int m = 0; m < ClusterSize(); ++m) {
      const Extremes& other = *ClusterPointer(&shared.extremes, m);
      mine.reserved_max = fmaxf(mine.reserved_max, other.reserved_max);
      mine.residual_max = fmaxf(mine.residual_max, other.residual_max);
      mine.residual_min = fminf(mine.residual_min, other.residual_min);
    }
  }
  return mine;
}

// Adds a block to its bin. Warps whose lanes all hit one bin add once.
__device__ inline void AddToBin(Shared& shared, int bin, uint32_t mass) {
  const unsigned active = __activemask();
  int uniform = 0;
  __match_all_sync(active, bin, &uniform);
  if (uniform != 0 && active == kFullMask) {
    const uint32_t low = __reduce_add_sync(kFullMask, mass & 0xffffu);
    const uint32_t high = __reduce_add_sync(kFullMask, mass >> 16);
    if (threadIdx.x % 32 == 0) {
      atomicAdd(&shared.bin_count[bin], 32u);
      atomicAdd(&shared.bin_low[bin], low);
      atomicAdd(&shared.bin_high[bin], high);
    }
    return;
  }
  atomicAdd(&shared.bin_count[bin], 1u);
  atomicAdd(&shared.bin_low[bin], mass & 0xffffu);
  atomicAdd(&shared.bin_high[bin], mass >> 16);
}

// Fills the bins (all but the last, which is what remains) and sums the two sets of masses.
template <bool kCluster>
__device__ inline void FillBins(const RowProblem& p, const Extremes& extremes, Shared& shared) {
  shared.bin_count[threadIdx.x] = 0;
  shared.bin_low[threadIdx.x] = 0;
  shared.bin_high[threadIdx.x] = 0;
  __syncthreads();
  uint64_t reserved = 0;
  uint64_t residual = 0;
  for (int b = p.begin + static_cast<int>(threadIdx.x); b < p.end; b += kThreads) {
    const float lse = p.lse[b];
    const bool is_reserved = IsReserved(p.plan, b);
    const float finite = lse == lse ? lse : -INFINITY;
    const uint32_t mass =
        BudgetMass(finite, is_reserved ? extremes.reserved_max : extremes.residual_max);
    if (is_reserved) {
      reserved += mass;
      continue;
    }
    residual += mass;
    const int bin = BinOf(p, lse);
    if (bin < kBins - 1) AddToBin(shared, bin, mass);
  }
  const uint64_t all_reserved = ClusterTally<kCluster>({0, reserved}, shared.tally).mass;
  const uint64_t all_residual = ClusterTally<kCluster>({0, residual}, shared.tally).mass;
  if (threadIdx.x == 0) {
    shared.totals[0] = all_reserved;
    shared.totals[1] = all_residual;
  }
  __syncthreads();
}

template <bool kCluster>
__device__ inline Tally BinTally(Shared& shared, int bin) {
  Tally tally = {0, 0};
  const int members = kCluster ? ClusterSize() : 1;
  for (int m = 0; m < members; ++m) {
    tally.count += kCluster ? *ClusterPointer(&shared.bin_count[bin], m) : shared.bin_count[bin];
    tally.mass += kCluster ? *ClusterPointer(&shared.bin_low[bin], m) : shared.bin_low[bin];
    tally.mass += static_cast<uint64_t>(kCluster ? *ClusterPointer(&shared.bin_high[bin], m)
                                                 : shared.bin_high[bin])
                  << 16;
  }
  return tally;
}

// Finds the bin in which the rule stops, and what lies before it. One thread per bin.
template <bool kCluster>
__device__ inline void FindBoundaryBin(const RowProblem& p, Shared& shared) {
  const int bin = threadIdx.x;
  const int lane = bin % 32;
  const Tally own = BinTally<kCluster>(shared, bin);
  Tally prefix = own;
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint32_t count = __shfl_up_sync(kFullMask, prefix.count, offset);
    const uint64_t mass =
        __shfl_up_sync(kFullMask, static_cast<unsigned long long>(prefix.mass), offset);
    if (lane >= offset) {
      prefix.count += count;
      prefix.mass += mass;
    }
  }
  if (threadIdx.x == 0) {
    shared.boundary_bin = -1;
    shared.candidate_count = 0;
  }
  __syncthreads();
  if (lane == 31) shared.tally.warps[bin / 32] = prefix;
  __syncthreads();
  for (int w = 0; w < bin / 32; ++w) {
    prefix.count += shared.tally.warps[w].count;
    prefix.mass += shared.tally.warps[w].mass;
  }
  const Tally before = {prefix.count - own.count, prefix.mass - own.mass};
  if (bin == kBins - 1) prefix = {static_cast<uint32_t>(p.plan.residual()), shared.totals[1]};
  const bool enters =
      BudgetWantsMore(p.plan, p.needed, static_cast<int32_t>(before.count), before.mass);
  const bool leaves =
      BudgetWantsMore(p.plan, p.needed, static_cast<int32_t>(prefix.count), prefix.mass);
  if (enters && !leaves) {
    shared.boundary_bin = bin;
    shared.before_bin = before;
  }
  __syncthreads();
}

// Collects the blocks of the boundary bin in the first member's list. They may be more than it
// holds.
template <bool kCluster>
__device__ inline void Collect(const RowProblem& p, float residual_max, Shared& shared) {
  Shared& owner = kCluster ? *ClusterPointer(&shared, 0) : shared;
  const int boundary_bin = shared.boundary_bin;
  for (int b = p.begin + static_cast<int>(threadIdx.x); b < p.end; b += kThreads) {
    const float lse = p.lse[b];
    if (IsReserved(p.plan, b) || BinOf(p, lse) != boundary_bin) continue;
    const int at = atomicAdd(&owner.candidate_count, 1);
    if (at >= kMaxCandidates) continue;
    owner.candidates[at] = {BudgetOrder(lse),
                            BudgetMass(lse == lse ? lse : -INFINITY, residual_max), b};
  }
}

// Ranks the candidates against each other; the one at which the rule stops sets the boundary.
__device__ inline void RankCandidates(const RowProblem& p, const Shared& list, int count,
                                      Shared& shared) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Candidate own = list.candidates[i];
    Tally before = shared.before_bin;
    for (int j = 0; j < count; ++j) {
      const Candidate other = list.candidates[j];
      if (other.key > own.key || (other.key == own.key && other.index < own.index)) {
        before.count += 1;
        before.mass += other.mass;
      }
    }
    const uint64_t after = before.mass + own.mass;
    if (BudgetWantsMore(p.plan, p.needed, static_cast<int32_t>(before.count), before.mass) &&
        !BudgetWantsMore(p.plan, p.needed, static_cast<int32_t>(before.count + 1), after)) {
      shared.boundary = {own.key, own.index + 1, after};
    }
  }
  __syncthreads();
}

// Count and mass of the residual blocks for which `take(key, index)` holds.
template <bool kCluster, typename Take>
__device__ inline Tally Measure(const RowProblem& p, float residual_max, Shared& shared,
                                const Take& take) {
  Tally tally = {0, 0};
  for (int b = p.begin + static_cast<int>(threadIdx.x); b < p.end; b += kThreads) {
    const float lse = p.lse[b];
    if (IsReserved(p.plan, b) || !take(BudgetOrder(lse), b)) continue;
    tally.count += 1;
    tally.mass += BudgetMass(lse == lse ? lse : -INFINITY, residual_max);
  }
  return ClusterTally<kCluster>(tally, shared.tally);
}

// The boundary by bisection, first over keys, then over the indices of equal keys.
template <bool kCluster>
__device__ inline void Bisect(const RowProblem& p, float residual_max, Shared& shared) {
  uint32_t key = 0;  // the smallest key such that the rule wants more after every larger key
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const uint32_t trial = key | (bit - 1);
    const Tally above =
        Measure<kCluster>(p, residual_max, shared, [&](uint32_t k, int) { return k > trial; });
    if (!BudgetWantsMore(p.plan, p.needed, static_cast<int32_t>(above.count), above.mass))
      key |= bit;
  }
  int32_t low = 0;  // the smallest index such that equal keys before it satisfy the rule
  int32_t high = p.plan.blocks;
  const auto taken_with = [&](int32_t index) {
    return Measure<kCluster>(p, residual_max, shared,
                             [&](uint32_t k, int b) { return k > key || (k == key && b < index); });
  };
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    const Tally taken = taken_with(middle);
    if (BudgetWantsMore(p.plan, p.needed, static_cast<int32_t>(taken.count), taken.mass)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const Tally taken = taken_with(low);
  if (threadIdx.x == 0) shared.boundary = {key, low, taken.mass};
  __syncthreads();
}

template <bool kCluster>
__device__ inline void FindBoundary(RowProblem& p, Shared& shared, float* scratch, float* covered) {
  const Extremes extremes = FindExtremes<kCluster>(p, shared, scratch);
  p.top = extremes.residual_max;
  const bool by_mass = p.rule.kind == BudgetKind::kDualTopP;
  const float range = extremes.residual_max - extremes.residual_min;
  p.scale = range > 0 ? static_cast<float>(kBins - 1) / (by_mass ? fminf(range, kMassRange) : range)
                      : 0.0f;
  FillBins<kCluster>(p, extremes, shared);
  const BudgetMasses masses = {shared.totals[0], shared.totals[1], extremes.reserved_max,
                               extremes.residual_max};
  p.needed = BudgetMassNeeded(p.rule, masses);
  FindBoundaryBin<kCluster>(p, shared);
  if (kCluster) ClusterSync();
  if (threadIdx.x == 0) {
    const bool any = BudgetWantsMore(p.plan, p.needed, 0, 0);
    shared.boundary = any ? Boundary{0, INT_MAX, shared.totals[1]} : Boundary{UINT_MAX, 0, 0};
  }
  __syncthreads();
  if (shared.boundary_bin >= 0) {
    Collect<kCluster>(p, extremes.residual_max, shared);
    if (kCluster) ClusterSync();
    __syncthreads();
    const Shared& list = kCluster ? *ClusterPointer(&shared, 0) : shared;
    const int count = list.candidate_count;
    if (count <= kMaxCandidates) {
      RankCandidates(p, list, count, shared);
    } else {
      Bisect<kCluster>(p, extremes.residual_max, shared);
    }
    if (kCluster) ClusterSync();
  }
  *covered = BudgetCovered(masses, shared.boundary.taken);
}

// Writes this member's chosen blocks in ascending order; returns their number to every thread.
template <bool kCluster>
__device__ inline uint32_t Emit(const RowProblem& p, bool scored, Shared& shared,
                                int32_t* selected) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const Boundary boundary = scored ? shared.boundary : Boundary{UINT_MAX, 0, 0};
  const auto takes = [&](int b) {
    if (b >= p.end) return false;
    if (IsReserved(p.plan, b)) return true;
    if (!scored) return false;
    const uint32_t key = BudgetOrder(p.lse[b]);
    return key > boundary.key || (key == boundary.key && b < boundary.index);
  };
  // Each warp owns a contiguous share: count it, then write behind the warps before it.
  const int share = ((p.end - p.begin + kWarps - 1) / kWarps + 31) / 32 * 32;
  const int first = p.begin + warp * share;
  const int last = min(p.end, first + share);
  uint32_t count = 0;
  for (int b = first; b < last; b += 32)
    count += __popc(__ballot_sync(kFullMask, b + lane < last && takes(b + lane)));
  if (lane == 0) shared.warp_count[warp] = count;
  __syncthreads();
  uint32_t before = 0;
  uint32_t total = 0;
  for (int w = 0; w < kWarps; ++w) {
    before += w < warp ? shared.warp_count[w] : 0;
    total += shared.warp_count[w];
  }
  if constexpr (kCluster) {
    if (threadIdx.x == 0) shared.member_count = total;
    ClusterSync();
    total = 0;
    for (int m = 0; m < ClusterSize(); ++m) {
      const uint32_t other = *ClusterPointer(&shared.member_count, m);
      before += m < ClusterRank() ? other : 0;
      total += other;
    }
  }
  for (int b = first; b < last; b += 32) {
    const bool take = b + lane < last && takes(b + lane);
    const unsigned taken = __ballot_sync(kFullMask, take);
    if (take) selected[before + __popc(taken & ((1u << lane) - 1))] = b + lane;
    before += __popc(taken);
  }
  return total;
}

template <bool kCluster>
__global__ __launch_bounds__(kThreads) void SelectKernel(const __grid_constant__ SelectArgs args) {
  __shared__ Shared shared;
  __shared__ float scratch[33];
  WaitForPrevious();
  AllowNext();
  const int members = kCluster ? ClusterSize() : 1;
  const int member = kCluster ? ClusterRank() : 0;
  const int choice = blockIdx.x / members;
  const int row = choice / args.groups;
  RowProblem p = {};
  p.rule = args.rules[row];
  p.plan = PlanBudget(p.rule, args.batch.kv_len[row], args.block_tokens);
  p.lse = args.block_lse + int64_t{choice} * args.lse_stride;
  const int share = (p.plan.blocks + members - 1) / members;
  p.begin = min(p.plan.blocks, member * share);
  p.end = min(p.plan.blocks, p.begin + share);
  const bool scored = p.rule.kind != BudgetKind::kReservedOnly;
  float covered = 1.0f;
  if (scored) FindBoundary<kCluster>(p, shared, scratch, &covered);
  const uint32_t count =
      Emit<kCluster>(p, scored, shared, args.selected + int64_t{choice} * args.selected_stride);
  if (member == 0 && threadIdx.x == 0) {
    args.counts[choice] = static_cast<int32_t>(count);
    args.covered_mass[choice] = covered;
  }
  if constexpr (kCluster) ClusterSync();  // nobody leaves while others read its shared memory
}

}  // namespace

cudaError_t LaunchSelect(const LaunchContext& ctx, const SelectArgs& args) {
  const int choices = args.batch.num_seqs * args.groups;
  const int blocks = CeilDiv(args.batch.max_kv_len, args.block_tokens);
  int members = 1;
  while (members < kMaxCluster && blocks > members * kBlocksPerMember) members *= 2;
  if (!ctx.hopper || members == 1)
    return Launch(ctx, SelectKernel<false>, choices, kThreads, 0, args);
  return LaunchCluster(ctx, SelectKernel<true>, choices * members, kThreads, 0, members, args);
}

}  // namespace spotd::kernels::cuda
