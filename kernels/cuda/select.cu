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
// A (row, group) is served by a cluster of thread blocks, each with a contiguous share of the row
// in registers; by one thread block where the row is short or the device has no clusters.
#include <climits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/select_state.cuh"

namespace spotd::kernels::cuda {
namespace {

__device__ inline Extremes Merge(const Extremes& a, const Extremes& b) {
  return {fmaxf(a.reserved_max, b.reserved_max), fmaxf(a.residual_max, b.residual_max),
          fminf(a.residual_min, b.residual_min)};
}

__device__ inline Extremes WarpExtremes(Extremes v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    v = Merge(v, {__shfl_xor_sync(kFullMask, v.reserved_max, offset),
                  __shfl_xor_sync(kFullMask, v.residual_max, offset),
                  __shfl_xor_sync(kFullMask, v.residual_min, offset)});
  }
  return v;
}

// Loads the thread's blocks; the extremes of the row come back to every thread. Also clears the
// bins.
template <int kMembers, int kPerThread>
__device__ inline Extremes LoadRow(const float* lse, RowProblem<kPerThread>& p, Shared& shared) {
  Extremes own = {-INFINITY, -INFINITY, INFINITY};
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) p.lse[e] = p.Block(e) < p.end ? lse[p.Block(e)] : -INFINITY;
  shared.bin_count[threadIdx.x] = 0;
  shared.bin_low[threadIdx.x] = 0;
  shared.bin_high[threadIdx.x] = 0;
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    if (isnan(p.lse[e])) p.lse[e] = -INFINITY;
    if (p.Block(e) >= p.end) continue;
    if (p.IsReserved(p.Block(e))) {
      own.reserved_max = fmaxf(own.reserved_max, p.lse[e]);
    } else {
      own.residual_max = fmaxf(own.residual_max, p.lse[e]);
      if (p.lse[e] > -INFINITY) own.residual_min = fminf(own.residual_min, p.lse[e]);
    }
  }
  own = WarpExtremes(own);
  if (threadIdx.x % 32 == 0) shared.warp_extremes[threadIdx.x / 32] = own;
  __syncthreads();
  Extremes all = WarpExtremes(shared.warp_extremes[threadIdx.x % 32]);
  if constexpr (kMembers > 1) {
    if (threadIdx.x == 0) shared.extremes = all;
    ClusterSync();
#pragma unroll
    for (int m = 0; m < kMembers; ++m) all = Merge(all, Of<kMembers>(shared.extremes, m));
  }
  return all;
}

// Adds a block to its bin. Warps whose lanes all hit one bin add once.
__device__ inline void AddToBin(Shared& shared, int bin, uint32_t mass) {
  const unsigned active = __activemask();
  if (active == kFullMask && __all_sync(kFullMask, bin == __shfl_sync(kFullMask, bin, 0))) {
    const uint32_t low = __reduce_add_sync(kFullMask, mass & 0xffffu);
    const uint32_t high = __reduce_add_sync(kFullMask, mass >> 16);
    if (threadIdx.x % 32 != 0) return;
    atomicAdd(&shared.bin_count[bin], 32u);
    atomicAdd(&shared.bin_low[bin], low);
    atomicAdd(&shared.bin_high[bin], high);
    return;
  }
  atomicAdd(&shared.bin_count[bin], 1u);
  atomicAdd(&shared.bin_low[bin], mass & 0xffffu);
  atomicAdd(&shared.bin_high[bin], mass >> 16);
}

__device__ inline Totals WarpTotals(Totals v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    v.reserved += ShuffleXor(v.reserved, offset);
    v.residual += ShuffleXor(v.residual, offset);
  }
  return v;
}

// Fills the bins (all but the last, which is what remains) and this member's totals, and lets the
// cluster see them.
template <int kMembers, int kPerThread>
__device__ inline void FillBins(const RowProblem<kPerThread>& p, const Extremes& extremes,
                                Shared& shared) {
  Totals own = {0, 0};
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    if (p.Block(e) >= p.end) continue;
    if (p.IsReserved(p.Block(e))) {
      own.reserved += BudgetMass(p.lse[e], extremes.reserved_max);
      continue;
    }
    const uint32_t mass = BudgetMass(p.lse[e], extremes.residual_max);
    own.residual += mass;
    const int bin = p.BinOf(p.lse[e]);
    if (bin < kBins - 1) AddToBin(shared, bin, mass);
  }
  own = WarpTotals(own);
  if (threadIdx.x % 32 == 0) shared.warp_totals[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x < 32) {
    own = WarpTotals(shared.warp_totals[threadIdx.x]);
    if (threadIdx.x == 0) shared.totals = own;
  }
  SyncMembers<kMembers>();
}

// The mass at which the rule stops, as the least integer that satisfies it. One thread.
__device__ inline uint64_t NeededMass(const BudgetRule& rule, const BudgetMasses& masses) {
  const double needed = ceil(BudgetMassNeeded(rule, masses));
  if (!(needed > 0.0)) return 0;
  return needed < 9e18 ? static_cast<uint64_t>(needed) : UINT64_MAX;
}

template <int kMembers>
__device__ inline BudgetMasses RowMasses(const Extremes& extremes, const Shared& shared) {
  BudgetMasses masses = {0, 0, extremes.reserved_max, extremes.residual_max};
#pragma unroll
  for (int m = 0; m < kMembers; ++m) {
    masses.reserved += Of<kMembers>(shared.totals.reserved, m);
    masses.residual += Of<kMembers>(shared.totals.residual, m);
  }
  return masses;
}

__device__ inline Tally ScanUp(Tally v) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint32_t count = __shfl_up_sync(kFullMask, v.count, offset);
    const uint64_t mass =
        __shfl_up_sync(kFullMask, static_cast<unsigned long long>(v.mass), offset);
    if (lane >= offset) {
      v.count += count;
      v.mass += mass;
    }
  }
  return v;
}

// Finds the bin in which the rule stops, and what lies before it. One thread per bin.
template <int kMembers, int kPerThread>
__device__ inline void FindBoundaryBin(RowProblem<kPerThread>& p, const BudgetRule& rule,
                                       const BudgetMasses& masses, Shared& shared) {
  const int bin = threadIdx.x;
  const int lane = bin % 32;
  Tally own = {0, 0};
#pragma unroll
  for (int m = 0; m < kMembers; ++m) {
    own.count += Of<kMembers>(shared.bin_count[bin], m);
    own.mass += Of<kMembers>(shared.bin_low[bin], m);
    own.mass += static_cast<uint64_t>(Of<kMembers>(shared.bin_high[bin], m)) << 16;
  }
  Tally prefix = ScanUp(own);
  if (lane == 31) shared.tally.warps[bin / 32] = prefix;
  if (threadIdx.x == 0) {
    shared.boundary_bin = -1;
    shared.candidates = 0;
    shared.needed = NeededMass(rule, masses);
  }
  __syncthreads();
  p.needed = shared.needed;
  const Tally warps = ScanUp(shared.tally.warps[lane]);  // every warp scans the warps' sums
  const int before_warp = max(bin / 32 - 1, 0);
  const uint32_t base_count = __shfl_sync(kFullMask, warps.count, before_warp);
  const uint64_t base_mass =
      __shfl_sync(kFullMask, static_cast<unsigned long long>(warps.mass), before_warp);
  if (bin >= 32) {
    prefix.count += base_count;
    prefix.mass += base_mass;
  }
  const Tally before = {prefix.count - own.count, prefix.mass - own.mass};
  if (bin == kBins - 1) prefix = {static_cast<uint32_t>(p.plan.residual()), masses.residual};
  if (p.WantsMore(before.count, before.mass) && !p.WantsMore(prefix.count, prefix.mass)) {
    shared.boundary_bin = bin;
    shared.before_bin = before;
  }
  if (threadIdx.x == 0) {
    const bool any = p.WantsMore(0, 0);
    shared.boundary = any ? Boundary{0, INT_MAX, masses.residual} : Boundary{UINT_MAX, 0, 0};
  }
  __syncthreads();
}

// Gathers the blocks of the boundary bin from every member. Returns their number, which may exceed
// the list.
template <int kMembers, int kPerThread>
__device__ inline int Gather(const RowProblem<kPerThread>& p, Shared& shared) {
  const int boundary_bin = shared.boundary_bin;
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    if (!p.IsResidual(e) || p.BinOf(p.lse[e]) != boundary_bin) continue;
    const int at = atomicAdd(&shared.candidates, 1);
    if (at < kMaxCandidates)
      shared.own[at] = {BudgetOrder(p.lse[e]), BudgetMass(p.lse[e], p.top), p.Block(e)};
  }
  SyncMembers<kMembers>();
  int counts[kMembers];
#pragma unroll
  for (int m = 0; m < kMembers; ++m) counts[m] = Of<kMembers>(shared.candidates, m);
  int total = 0;
#pragma unroll
  for (int m = 0; m < kMembers; ++m) {
    const int at = static_cast<int>(threadIdx.x) - total;
    total += counts[m];
    if (at >= 0 && at < counts[m] && total <= kMaxCandidates) {
      shared.all[threadIdx.x] = Of<kMembers>(shared.own[at], m);
    }
  }
  __syncthreads();
  return total;
}

// Ranks the candidates against each other, a warp per candidate; the one at which the rule stops
// sets the boundary.
template <int kPerThread>
__device__ inline void RankCandidates(const RowProblem<kPerThread>& p, int count, Shared& shared) {
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x / 32; i < count; i += kWarps) {
    const Candidate own = shared.all[i];
    Tally better = {0, 0};
    for (int j = lane; j < count; j += 32) {
      const Candidate other = shared.all[j];
      if (other.key > own.key || (other.key == own.key && other.index < own.index)) {
        better.count += 1;
        better.mass += other.mass;
      }
    }
    better = WarpTally(better);
    const Tally before = {shared.before_bin.count + better.count,
                          shared.before_bin.mass + better.mass};
    const uint64_t after = before.mass + own.mass;
    if (lane == 0 && p.WantsMore(before.count, before.mass) &&
        !p.WantsMore(before.count + 1, after)) {
      shared.boundary = {own.key, own.index + 1, after};
    }
  }
  __syncthreads();
}

// Count and mass of the residual blocks for which `take(key, index)` holds.
template <int kMembers, int kPerThread, typename Take>
__device__ inline Tally Measure(const RowProblem<kPerThread>& p, Shared& shared, const Take& take) {
  Tally tally = {0, 0};
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    if (!p.IsResidual(e) || !take(BudgetOrder(p.lse[e]), p.Block(e))) continue;
    tally.count += 1;
    tally.mass += BudgetMass(p.lse[e], p.top);
  }
  return ClusterTally<(kMembers > 1)>(tally, shared.tally);
}

// The boundary by bisection, first over keys, then over the indices of equal keys.
template <int kMembers, int kPerThread>
__device__ inline void Bisect(const RowProblem<kPerThread>& p, Shared& shared) {
  uint32_t key = 0;  // the smallest key such that the rule wants more after every larger key
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const uint32_t trial = key | (bit - 1);
    const Tally above = Measure<kMembers>(p, shared, [&](uint32_t k, int) { return k > trial; });
    if (!p.WantsMore(above.count, above.mass)) key |= bit;
  }
  int32_t low = 0;  // the smallest index such that equal keys before it satisfy the rule
  int32_t high = p.plan.blocks;
  const auto taken_with = [&](int32_t index) {
    return Measure<kMembers>(p, shared,
                             [&](uint32_t k, int b) { return k > key || (k == key && b < index); });
  };
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    const Tally taken = taken_with(middle);
    if (p.WantsMore(taken.count, taken.mass)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const Tally taken = taken_with(low);
  if (threadIdx.x == 0) shared.boundary = {key, low, taken.mass};
  __syncthreads();
}

// BudgetCovered in single precision: it informs, it decides nothing.
__device__ inline float CoveredMass(const BudgetMasses& masses, uint64_t taken) {
  if (taken == masses.residual) return 1.0f;
  float reserved = static_cast<float>(masses.reserved);
  if (masses.residual > 0)
    reserved *= expf(fminf(masses.reserved_max - masses.residual_max, 60.0f));
  return (reserved + static_cast<float>(taken)) / (reserved + static_cast<float>(masses.residual));
}

// Sets shared.boundary; returns the row's masses.
template <int kMembers, int kPerThread>
__device__ inline BudgetMasses FindBoundary(RowProblem<kPerThread>& p, const BudgetRule& rule,
                                            const float* lse, Shared& shared) {
  const Extremes extremes = LoadRow<kMembers>(lse, p, shared);
  p.top = extremes.residual_max;
  const float range = extremes.residual_max - extremes.residual_min;
  const float reach = rule.kind == BudgetKind::kDualTopP ? fminf(range, kMassRange) : range;
  p.scale = range > 0 ? static_cast<float>(kBins - 1) / reach : 0.0f;
  FillBins<kMembers>(p, extremes, shared);
  const BudgetMasses masses = RowMasses<kMembers>(extremes, shared);
  FindBoundaryBin<kMembers>(p, rule, masses, shared);
  if (shared.boundary_bin >= 0) {
    const int count = Gather<kMembers>(p, shared);
    if (count <= kMaxCandidates) {
      RankCandidates(p, count, shared);
    } else {
      Bisect<kMembers>(p, shared);
    }
  }
  return masses;
}

// Writes this member's chosen blocks in ascending order; returns the row's number of them to every
// thread.
template <int kMembers, int kPerThread>
__device__ inline uint32_t Emit(const RowProblem<kPerThread>& p, bool scored, Shared& shared,
                                int32_t* selected) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const Boundary boundary = scored ? shared.boundary : Boundary{UINT_MAX, 0, 0};
  unsigned taken[kPerThread];  // of the warp's 32 blocks of round e
  uint32_t own_round[kPerThread];
  uint32_t before = 0;
  uint32_t total = 0;
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    const int b = p.Block(e);
    const uint32_t key = BudgetOrder(p.lse[e]);
    const bool take = b < p.end && (p.IsReserved(b) || key > boundary.key ||
                                    (key == boundary.key && b < boundary.index));
    taken[e] = __ballot_sync(kFullMask, take);
  }
  __syncthreads();  // the list of candidates has been read
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    if (lane == 0) shared.warp_count[e * kWarps + warp] = __popc(taken[e]);
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    const uint32_t round = shared.warp_count[e * kWarps + lane];
    own_round[e] = total + __reduce_add_sync(kFullMask, lane < warp ? round : 0u);
    total += __reduce_add_sync(kFullMask, round);
  }
  if constexpr (kMembers > 1) {
    if (threadIdx.x == 0) shared.count = total;
    ClusterSync();
    total = 0;
#pragma unroll
    for (int m = 0; m < kMembers; ++m) {
      const uint32_t other = Of<kMembers>(shared.count, m);
      before += m < ClusterRank() ? other : 0;
      total += other;
    }
  }
#pragma unroll
  for (int e = 0; e < kPerThread; ++e) {
    if ((taken[e] >> lane & 1) == 0) continue;
    selected[before + own_round[e] + __popc(taken[e] & ((1u << lane) - 1))] = p.Block(e);
  }
  return total;
}

template <int kMembers, int kPerThread>
__global__ __launch_bounds__(kThreads) void SelectKernel(const __grid_constant__ SelectArgs args) {
  __shared__ Shared shared;
  const int member = kMembers > 1 ? ClusterRank() : 0;
  const int choice = blockIdx.x / kMembers;
  const int row = choice / args.groups;
  WaitForPrevious();
  AllowNext();
  const BudgetRule rule = args.rules[row];
  RowProblem<kPerThread> p;
  p.plan = PlanBudget(rule, args.batch.kv_len[row], args.block_tokens);
  const int share = (p.plan.blocks + kMembers - 1) / kMembers;
  p.begin = min(p.plan.blocks, member * share);
  p.end = min(p.plan.blocks, p.begin + share);
  const bool scored = rule.kind != BudgetKind::kReservedOnly;
  BudgetMasses masses = {};
  if (scored) {
    masses =
        FindBoundary<kMembers>(p, rule, args.block_lse + int64_t{choice} * args.lse_stride, shared);
  } else {
#pragma unroll
    for (int e = 0; e < kPerThread; ++e) p.lse[e] = -INFINITY;
  }
  const uint32_t count =
      Emit<kMembers>(p, scored, shared, args.selected + int64_t{choice} * args.selected_stride);
  if (member == 0 && threadIdx.x == 0) {
    args.counts[choice] = static_cast<int32_t>(count);
    args.covered_mass[choice] = scored ? CoveredMass(masses, shared.boundary.taken) : 1.0f;
  }
  if constexpr (kMembers > 1) ClusterSync();  // nobody leaves while others read its shared memory
}

template <int kMembers, int kPerThread>
cudaError_t LaunchShape(const LaunchContext& ctx, const SelectArgs& args) {
  const int choices = args.batch.num_seqs * args.groups;
  return LaunchCluster(ctx, SelectKernel<kMembers, kPerThread>, choices * kMembers, kThreads, 0,
                       kMembers, args);
}

// Without clusters one thread block takes the whole row.
cudaError_t LaunchAlone(const LaunchContext& ctx, const SelectArgs& args, int per_thread) {
  if (per_thread <= 2) return LaunchShape<1, 2>(ctx, args);
  if (per_thread <= 8) return LaunchShape<1, 8>(ctx, args);
  return per_thread <= kMaxPerThread ? LaunchShape<1, kMaxPerThread>(ctx, args)
                                     : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchSelect(const LaunchContext& ctx, const SelectArgs& args) {
  const int per_thread = CeilDiv(CeilDiv(args.batch.max_kv_len, args.block_tokens), kThreads);
  if (!ctx.hopper || per_thread <= 2) return LaunchAlone(ctx, args, per_thread);
  if (per_thread <= 8) return LaunchShape<1, 8>(ctx, args);
  if (per_thread <= 16) return LaunchShape<8, 2>(ctx, args);
  if (per_thread <= 64) return LaunchShape<8, 8>(ctx, args);
  return per_thread <= 8 * kMaxPerThread ? LaunchShape<8, kMaxPerThread>(ctx, args)
                                         : cudaErrorInvalidValue;
}

}  // namespace spotd::kernels::cuda
