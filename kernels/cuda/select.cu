// From block masses to the blocks a row reads: the rule of kernels/core/budget_rule.h, on the
// device.
//
// A row's blocks in order (descending lse, ties to the lower index) are never sorted. Masses are
// summed into 1024 bins by distance from the largest lse; a scan over the bins finds the one in
// which the rule stops; the few blocks of that bin are ranked against each other. Where too many
// blocks share a bin, a bisection over the ordered keys replaces the ranking: slower, never lossy.
// The chosen blocks become bits, and the bits a list in ascending order. All sums are integers, so
// the result does not depend on the schedule.
//
// A thread block serves a (row, group). A longer row gets a team of them, as far as the device has
// room: each member adds the masses of its share to bins in device memory, and the one that
// arrives last does the rest. Members find the row's extremes by reading all of it, or, where it is
// too long for shared memory, from a kernel before this one.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/select_blocks.cuh"
#include "kernels/cuda/select_cluster.h"

namespace spotd::kernels::cuda {
namespace {

constexpr int kAlone = 1024;  // blocks of a row that need no team
constexpr int kShare = 256;   // least blocks of a team's member
constexpr int kMaxTeams = 128;
constexpr int kMaxBlocks = 1 << 19;
constexpr int kExtremesShare = 2048;  // blocks of a thread block of ExtremesKernel

// The extremes of a row that is held in shared memory.
__device__ inline Extremes HeldExtremes(const RowProblem& p, Shared& shared) {
  float reserved_top = -INFINITY;
  float top = -INFINITY;
  float bottom = INFINITY;
  const Owned own = OwnedOf(p, 0);
  for (int32_t i = threadIdx.x; i < p.plan.reserved(); i += kThreads) {
    const int32_t b = i < p.plan.sink_blocks ? i : p.plan.recent_begin + i - p.plan.sink_blocks;
    reserved_top = fmaxf(reserved_top, p.tile[p.PlaceOf(b)]);
  }
  for (int word = 0; 32 * word < p.owned; ++word) {
    const uint32_t residual = RangeBits(word, own.low, own.high);
    ForWord(p, word, [&](int i, float x) {
      SeeResidual((residual >> i & 1) != 0 ? x : -INFINITY, top, bottom);
    });
  }
  return BlockExtremes(MakeExtremes(reserved_top, top, bottom), shared.warp_extremes);
}

// Adds residual blocks [begin, end) to the bins. Lanes that meet in the last bin, where masses
// vanish, and warps whose lanes all meet add once.
__device__ inline void FillBins(const RowProblem& p, int32_t begin, int32_t end, TeamState* team,
                                Shared& shared) {
  const int lane = threadIdx.x % 32;
  const bool packed = p.plan.residual() < kPackedBlocks;
  for (int32_t first = begin + static_cast<int32_t>(threadIdx.x) - lane; first < end;
       first += kThreads) {
    const bool counts = first + lane < end;
    const float x = counts ? p.Load(first + lane) : -INFINITY;
    const uint32_t mass = counts ? BudgetMass(x, p.top) : 0;
    const int bin = counts ? p.BinOf(x) : -1;
    if (__all_sync(kFullMask, bin == __shfl_sync(kFullMask, bin, 0))) {
      const uint32_t low = __reduce_add_sync(kFullMask, mass & 0xffffu);
      const uint32_t high = __reduce_add_sync(kFullMask, mass >> 16);
      if (lane == 0 && counts)
        AddToBin(team, packed, shared, bin, 32, low + (static_cast<uint64_t>(high) << 16));
      continue;
    }
    const unsigned in_last = __ballot_sync(kFullMask, bin == kBins - 1);
    uint32_t count = counts ? 1 : 0;
    if (bin == kBins - 1)
      count = lane == __ffs(static_cast<int>(in_last)) - 1 ? __popc(in_last) : 0;
    if (count != 0 || mass != 0) AddToBin(team, packed, shared, bin, count, mass);
  }
}

// The reserved mass, and what it weighs against the residual's: by the last warps, which have the
// least else to do.
__device__ inline void WeighReserved(const RowProblem& p, Shared& shared) {
  const int32_t last = kThreads - 1 - static_cast<int32_t>(threadIdx.x);
  for (int32_t i = last; i < p.plan.reserved(); i += kThreads) {
    const int32_t b = i < p.plan.sink_blocks ? i : p.plan.recent_begin + i - p.plan.sink_blocks;
    const uint32_t mass = BudgetMass(p.Load(b), p.reserved_max);
    atomicAdd(&shared.reserved_low, mass & 0xffffu);
    atomicAdd(&shared.reserved_high, mass >> 16);
  }
  if (threadIdx.x == 0) shared.reserved_scale = ReservedScale(p.reserved_max, p.top);
}

// Whether this thread block is the team's last to arrive; its additions are then everyone's.
__device__ inline bool ArriveLast(TeamState* team, int members, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    int before;
    asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(&team->arrived)
                 : "memory");
    shared.is_last = before == members - 1;
  }
  __syncthreads();
  return shared.is_last;
}

__device__ inline Tally Sum(const Tally& a, const Tally& b) {
  return {a.count + b.count, a.mass + b.mass};
}

__device__ inline Tally WarpScan(Tally v) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const Tally below = {
        __shfl_up_sync(kFullMask, v.count, offset),
        __shfl_up_sync(kFullMask, static_cast<unsigned long long>(v.mass), offset)};
    if (lane >= offset) v = Sum(v, below);
  }
  return v;
}

// Finds the bin in which the rule stops, and what lies before it. Returns the row's masses.
__device__ inline BudgetMasses FindBoundaryBin(const BudgetRule& rule, TeamState* team,
                                               RowProblem& p, Shared& shared) {
  const int warp = threadIdx.x / 32;
  Tally bins[kBinsPerThread];
  TakeBins(team, p.plan.residual() < kPackedBlocks, shared, bins);
  Tally own = bins[0];
#pragma unroll
  for (int i = 1; i < kBinsPerThread; ++i) own = Sum(own, bins[i]);
  const Tally prefix = WarpScan(own);
  if (threadIdx.x % 32 == 31) shared.of_warp[warp] = prefix;
  if (threadIdx.x == 0) {
    shared.boundary_bin = -1;
    shared.taken = 0;
  }
  __syncthreads();
  Tally all = {0, 0};
  Tally before = {prefix.count - own.count, prefix.mass - own.mass};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before = Sum(before, shared.of_warp[w]);
    all = Sum(all, shared.of_warp[w]);
  }
  const BudgetMasses masses = {
      shared.reserved_low + (static_cast<uint64_t>(shared.reserved_high) << 16), all.mass,
      p.reserved_max, p.top};
  p.needed = NeededMass(rule, masses, shared.reserved_scale);
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) {
    const Tally after = Sum(before, bins[i]);
    if (p.WantsMore(before) && !p.WantsMore(after)) {
      shared.boundary_bin = static_cast<int>(threadIdx.x) * kBinsPerThread + i;
      shared.before_bin = before;
    }
    before = after;
  }
  __syncthreads();
  return masses;
}

// Ranks the candidates against each other, a thread per candidate; those that the rule still wants
// are chosen.
__device__ inline void RankCandidates(const RowProblem& p, int count, Shared& shared) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    Candidate& own = shared.candidates[i];
    const float x = fmaxf(FloatFromBits(own.mass), -INFINITY);
    own.order = static_cast<uint64_t>(BudgetOrder(x)) << 32 | ~static_cast<uint32_t>(own.index);
    own.mass = BudgetMass(x, p.top);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Candidate own = shared.candidates[i];
    Tally before = shared.before_bin;
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      const Candidate other = shared.candidates[j];
      if (other.order > own.order) {
        before.count += 1;
        before.mass += other.mass;
      }
    }
    if (!p.WantsMore(before)) continue;
    Choose(p, own.index);
    const Tally after = {before.count + 1, before.mass + own.mass};
    if (!p.WantsMore(after)) shared.taken = after.mass;  // the last one chosen
  }
}

// Count and mass of the residual blocks for which `take(key, index)` holds.
template <typename Take>
__device__ inline Tally Measure(const RowProblem& p, Shared& shared, const Take& take) {
  Tally tally = {0, 0};
  for (int32_t b = p.plan.sink_blocks + static_cast<int32_t>(threadIdx.x); b < p.plan.recent_begin;
       b += kThreads) {
    const float x = p.Load(b);
    if (take(BudgetOrder(x), b)) tally = Sum(tally, {1, BudgetMass(x, p.top)});
  }
  tally = WarpTally(tally);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.of_warp[threadIdx.x / 32] = tally;
  __syncthreads();
  tally = {0, 0};
  for (const Tally& of_warp : shared.of_warp) tally = Sum(tally, of_warp);
  return tally;
}

// Chooses the residual blocks by bisection, first over keys, then over the indices of equal keys.
__device__ inline void Bisect(const RowProblem& p, Shared& shared) {
  uint32_t key = 0;  // the smallest key such that the rule wants more after every larger key
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const uint32_t trial = key | (bit - 1);
    const Tally above = Measure(p, shared, [&](uint32_t k, int) { return k > trial; });
    if (!p.WantsMore(above)) key |= bit;
  }
  int32_t low = 0;  // the smallest index such that equal keys before it satisfy the rule
  int32_t high = p.plan.blocks;
  const auto taken_with = [&](int32_t index) {
    return Measure(p, shared,
                   [&](uint32_t k, int b) { return k > key || (k == key && b < index); });
  };
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (p.WantsMore(taken_with(middle))) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const Tally taken = taken_with(low);
  if (threadIdx.x == 0) shared.taken = taken.mass;
  for (int32_t b = p.plan.sink_blocks + static_cast<int32_t>(threadIdx.x); b < p.plan.recent_begin;
       b += kThreads) {
    const uint32_t k = BudgetOrder(p.Load(b));
    if (k > key || (k == key && b < low)) Choose(p, b);
  }
}

// Marks the chosen blocks of a row whose scores matter. False: another member finishes the row.
__device__ inline bool ChooseByScore(const BudgetRule& rule, TeamState* team, int member,
                                     int members, RowProblem& p, Shared& shared,
                                     BudgetMasses* masses) {
  if (p.held()) {
    StartFetch(p, 0, p.tile);
    WaitCopies<0>();
    __syncthreads();
    SetExtremes(rule, HeldExtremes(p, shared), p);
  } else {
    SetExtremes(rule,
                {__ldcg(&team->extremes.reserved_top), __ldcg(&team->extremes.residual_top),
                 __ldcg(&team->extremes.residual_bottom)},
                p);
  }
  const int32_t share = (p.plan.residual() + members - 1) / members;
  const int32_t begin = p.plan.sink_blocks + member * share;
  TeamState* bins = members > 1 ? team : nullptr;
  FillBins(p, begin, min(p.plan.recent_begin, begin + share), bins, shared);
  WeighReserved(p, shared);
  if (members == 1) {
    __syncthreads();
  } else if (!ArriveLast(team, members, shared)) {
    return false;
  }
  if (threadIdx.x == 0 && (members > 1 || !p.held())) {
    team->extremes = {0, 0, 0};
    team->arrived = 0;
  }
  *masses = FindBoundaryBin(rule, bins, p, shared);
  MarkBlocks(p, shared);
  const int count = shared.num_candidates;
  if (count <= kMaxCandidates) {
    RankCandidates(p, count, shared);
  } else {
    Bisect(p, shared);
  }
  return true;
}

// The row of one choice, as far as it is known before its scores.
__device__ inline RowProblem ProblemOf(const SelectArgs& args, const BudgetRule& rule, int choice,
                                       int tile_owned) {
  RowProblem p = {};
  p.plan = PlanBudget(rule, args.batch.kv_len[choice / args.groups], args.block_tokens);
  p.lse = args.block_lse + int64_t{choice} * args.lse_stride;
  const int tile_blocks = tile_owned * kThreads;
  p.tiles = p.plan.blocks > kMaxHeld ? (p.plan.blocks + tile_blocks - 1) / tile_blocks : 1;
  p.owned = max(4, OwnedBlocks(p.plan.blocks, tile_owned));
  p.stride = OwnedStride(p.owned);
  p.reciprocal = ~0u / static_cast<uint32_t>(p.owned) + 1;
  return p;
}

__global__ __launch_bounds__(kThreads) void SelectKernel(const __grid_constant__ SelectArgs args,
                                                         TeamState* teams, int first_choice,
                                                         int tile_owned, int tile_floats,
                                                         int members) {
  extern __shared__ float4 dynamic[];  // the row or two tiles of it, then the bits
  __shared__ Shared shared;
  AllowNext();
  const int member = static_cast<int>(blockIdx.x) % members;
  const int team = static_cast<int>(blockIdx.x) / members;
  const int choice = first_choice + team;
  const BudgetRule rule = args.rules[choice / args.groups];
  RowProblem p = ProblemOf(args, rule, choice, tile_owned);
  p.tile = reinterpret_cast<float*>(dynamic);
  p.chosen = reinterpret_cast<uint32_t*>(dynamic) + tile_floats;
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    shared.bin_count[i] = 0;
    shared.bin_low[i] = 0;
    shared.bin_high[i] = 0;
  }
  if (threadIdx.x == 0) {
    shared.reserved_low = 0;
    shared.reserved_high = 0;
    shared.num_candidates = 0;
  }
  const bool scored = IsScored(rule, p.plan);
  const int team_size = scored && p.plan.blocks > kAlone ? min(members, p.plan.blocks / kShare) : 1;
  if (member >= team_size) return;
  WaitForPrevious();

  BudgetMasses masses = {};
  if (scored) {
    if (!ChooseByScore(rule, teams + team, member, team_size, p, shared, &masses)) return;
  } else {
    MarkUnscored(p, rule.kind != BudgetKind::kReservedOnly);
  }
  __syncthreads();
  const uint32_t count =
      WriteList(p, shared, args.selected + int64_t{choice} * args.selected_stride);
  if (threadIdx.x == 0) {
    args.counts[choice] = static_cast<int32_t>(count);
    args.covered_mass[choice] = scored ? CoveredMass(masses, shared.taken) : 1.0f;
  }
}

// The extremes of rows that shared memory does not hold.
__global__ __launch_bounds__(kThreads) void ExtremesKernel(const __grid_constant__ SelectArgs args,
                                                           TeamState* teams, int first_choice) {
  __shared__ Extremes of_warp[kWarps];
  AllowNext();
  const int choice = first_choice + static_cast<int>(blockIdx.y);
  const BudgetRule rule = args.rules[choice / args.groups];
  const RowProblem p = ProblemOf(args, rule, choice, kMaxOwned);
  WaitForPrevious();
  if (p.held() || !IsScored(rule, p.plan)) return;
  float reserved_top = -INFINITY;
  float top = -INFINITY;
  float bottom = INFINITY;
  constexpr int kPerThread = kExtremesShare / kThreads;
  float x[kPerThread];
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kExtremesShare;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int32_t b = first + i * kThreads + static_cast<int32_t>(threadIdx.x);
    x[i] = b < p.plan.blocks ? __ldcg(p.lse + b) : -INFINITY;
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int32_t b = first + i * kThreads + static_cast<int32_t>(threadIdx.x);
    if (b < p.plan.sink_blocks || b >= p.plan.recent_begin) {
      reserved_top = fmaxf(reserved_top, x[i]);
    } else {
      SeeResidual(x[i], top, bottom);
    }
  }
  const Extremes all = BlockExtremes(MakeExtremes(reserved_top, top, bottom), of_warp);
  if (threadIdx.x != 0) return;
  Extremes* to = &teams[blockIdx.y].extremes;
  atomicMax(&to->reserved_top, all.reserved_top);
  atomicMax(&to->residual_top, all.residual_top);
  atomicMax(&to->residual_bottom, all.residual_bottom);
}

}  // namespace

size_t SelectScratchBytes() {
  return kMaxTeams * sizeof(TeamState);
}

cudaError_t LaunchSelect(const LaunchContext& ctx, const SelectArgs& args, void* scratch) {
  auto* teams = static_cast<TeamState*>(scratch);
  const int blocks = CeilDiv(args.batch.max_kv_len, args.block_tokens);
  if (blocks > kMaxBlocks) return cudaErrorInvalidValue;
  if (args.block_lse != nullptr && SelectFitsCluster(ctx, blocks))
    return LaunchSelectCluster(ctx, args);
  const int tile_owned = ctx.hopper ? kMaxOwned : kMaxOwned / 2;
  const int tiles = blocks > kMaxHeld ? CeilDiv(blocks, tile_owned * kThreads) : 1;
  const int tile_floats = kThreads * (tiles > 1 ? 1 : 0) * OwnedStride(tile_owned) +
                          kThreads * OwnedStride(OwnedBlocks(blocks, tile_owned));
  const int bytes = (tile_floats + tiles * 2 * kThreads) * 4;
  cudaError_t error =
      cudaFuncSetAttribute(SelectKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const int choices = args.batch.num_seqs * args.groups;
  // Long rows need a team's state even where a single thread block serves them.
  const int at_once = tiles > 1 && choices > kMaxTeams ? kMaxTeams : choices;
  const int room = at_once <= kMaxTeams ? ctx.sm_count / at_once : 1;
  int members = blocks > kAlone ? blocks / kShare : 1;
  if (members > room) members = room > 1 ? room : 1;
  for (int first = 0; first < choices && error == cudaSuccess; first += at_once) {
    const int count = choices - first < at_once ? choices - first : at_once;
    if (tiles > 1) {
      error = Launch(ctx, ExtremesKernel, dim3(CeilDiv(blocks, kExtremesShare), count), kThreads, 0,
                     args, teams, first);
      if (error != cudaSuccess) break;
    }
    error = Launch(ctx, SelectKernel, count * members, kThreads, bytes, args, teams, first,
                   tile_owned, tile_floats, members);
  }
  return error;
}

}  // namespace spotd::kernels::cuda
