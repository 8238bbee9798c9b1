// What the threads of one selection (select.cu) share and know: the row's problem and how its
// blocks are dealt out, the bins that masses are summed into, and the memory that the thread blocks
// of a team share. Internal to select.cu.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/select_rule.cuh"
#include "kernels/cuda/tally.cuh"

namespace spotd::kernels::cuda {
namespace {

// Few threads: most phases are latency, and every warp repeats the row's arithmetic.
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 1024;
constexpr int kBinsPerThread = kBins / kThreads;
constexpr int kMaxCandidates = 1024;
// Every thread owns up to this many consecutive blocks of a row that shared memory holds, or of a
// tile of a longer one (fewer where two tiles would not fit).
constexpr int kMaxOwned = 64;
constexpr int kMaxHeld = kMaxOwned * kThreads;

// A row's largest reserved score, largest residual one, and the complement of its smallest finite
// residual one, as BudgetOrder: all three grow, from zero.
struct Extremes {
  uint32_t reserved_top;
  uint32_t residual_top;
  uint32_t residual_bottom;
};

// Where a team's bin lies: neighbours in different sectors of the L2 cache, where additions to one
// sector queue up.
constexpr int kBinSpread = kBins / 4;
__device__ inline int BinPlace(int bin) {
  return bin % kBinSpread * 4 + bin / kBinSpread;
}

// What the thread blocks of a team fill together, in device memory. All zero between launches: the
// member that finishes the row leaves it so.
struct TeamState {
  unsigned long long mass[kBins];   // at BinPlace
  unsigned long long count[kBins];  // likewise; of rows that are not packed
  Extremes extremes;
  int32_t arrived;  // members that have added their share
  int32_t unused[28];
};

// A block of the bin in which the rule stops: first its score's bits as the mass, then its mass and
// its place in the descending order, that of the key and then of the index's complement.
struct alignas(16) Candidate {
  uint64_t order;
  uint32_t mass;
  int32_t index;
};

struct Shared {
  union {
    struct {
      uint32_t bin_count[kBins];
      uint32_t bin_low[kBins];   // sums of the masses' low and high halves: 32-bit atomics are
      uint32_t bin_high[kBins];  // native
    };
    struct {
      unsigned long long team_mass[kBins];  // a team's bins, in order
      unsigned long long team_count[kBins];
    };
    Candidate candidates[kMaxCandidates];  // once the bins have been read
  };
  Tally of_warp[kWarps];
  Extremes warp_extremes[kWarps];
  uint32_t taken_of_warp[2][kWarps];
  uint32_t reserved_low;  // reserved mass in halves, as the bins
  uint32_t reserved_high;
  double reserved_scale;  // ReservedScale of the row
  int32_t boundary_bin;   // better bins are taken whole, worse ones not at all
  int32_t num_candidates;
  Tally before_bin;  // residual blocks in better bins
  uint64_t taken;    // residual mass of the chosen blocks
  bool is_last;
};

// A row's problem as every thread knows it.
struct RowProblem {
  BudgetPlan plan;
  const float* lse;  // the row in device memory
  float* tile;       // shared: the scores of the row or of one tile, at PlaceOf
  uint32_t* chosen;  // shared, [tiles, 2, kThreads]: a bit for every block that a thread owns
  int32_t tiles;
  int32_t owned;        // blocks of a tile that a thread owns, a multiple of 4
  int32_t stride;       // floats between the first scores of two threads: an odd multiple of 4, so
                        // that threads that read 16 bytes each meet different banks
  uint32_t reciprocal;  // of owned: __umulhi divides indices within a tile
  float reserved_max;
  float top;    // largest residual lse
  float scale;  // bins per unit of lse, above 0
  float origin;
  uint64_t needed;  // the rule wants more below this mass

  // Whether the whole row is in `tile`.
  __device__ bool held() const { return tiles == 1; }
  // Where a block of a tile lies in `tile`. Groups of four stay together.
  __device__ int32_t PlaceOf(int32_t in_tile) const {
    const auto owner = static_cast<int32_t>(__umulhi(static_cast<uint32_t>(in_tile), reciprocal));
    return in_tile + owner * (stride - owned);
  }
  __device__ float Load(int32_t b) const {
    return fmaxf(held() ? tile[PlaceOf(b)] : __ldcg(lse + b), -INFINITY);  // NaN reads as -inf
  }
  // How far below the top a score lies, in bins. Falls as x grows; NaN and infinity go last.
  __device__ float Distance(float x) const { return fmaf(-x, scale, origin); }
  __device__ int BinOf(float x) const {
    const float distance = Distance(x);
    return distance < static_cast<float>(kBins - 1) ? max(static_cast<int>(distance), 0)
                                                    : kBins - 1;
  }
  // BudgetWantsMore in integers: masses are exact.
  __device__ bool WantsMore(const Tally& taken) const {
    const auto count = static_cast<int32_t>(taken.count);
    return count < plan.min_take || (count < plan.max_take && taken.mass < needed);
  }
};

// The blocks of a tile that this thread owns, by offset from the first: [0, low) and [high, end)
// are reserved, [low, high) residual.
struct Owned {
  int32_t first;
  int32_t low;
  int32_t high;
  int32_t end;
};

__device__ inline Owned OwnedOf(const RowProblem& p, int tile) {
  Owned own;
  own.first = (tile * kThreads + static_cast<int32_t>(threadIdx.x)) * p.owned;
  own.end = min(max(p.plan.blocks - own.first, 0), p.owned);
  own.low = min(max(p.plan.sink_blocks - own.first, 0), own.end);
  own.high = min(max(p.plan.recent_begin - own.first, own.low), own.end);
  return own;
}

// Bits [from, to) of a word that starts at bit 32 * word.
__device__ inline uint32_t RangeBits(int word, int from, int to) {
  const auto at_least = [word](int bit) {
    return __funnelshift_lc(0u, ~0u, min(max(bit - 32 * word, 0), 32));
  };
  return at_least(from) & ~at_least(to);
}

// Adds blocks to a bin of a team (device memory) or of this thread block (shared memory).
__device__ inline void AddToBin(TeamState* team, bool packed, Shared& shared, int bin,
                                uint32_t count, uint64_t mass) {
  if (team != nullptr) {
    if (packed) {
      atomicAdd(&team->mass[BinPlace(bin)], mass | static_cast<uint64_t>(count) << kCountShift);
    } else {
      atomicAdd(&team->mass[BinPlace(bin)], mass);
      atomicAdd(&team->count[BinPlace(bin)], count);
    }
    return;
  }
  atomicAdd(&shared.bin_count[bin], count);
  if (mass == 0) return;
  atomicAdd(&shared.bin_low[bin], static_cast<uint32_t>(mass) & 0xffffu);
  atomicAdd(&shared.bin_high[bin], static_cast<uint32_t>(mass >> 16));
}

// Reads four words at a time of a team's bins into `to`, in the bins' order, and leaves them zero.
__device__ inline void TakeTeamWords(unsigned long long* from, unsigned long long* to) {
  static_assert(kBinSpread == kThreads);
  auto* pairs = reinterpret_cast<ulonglong2*>(from) + threadIdx.x * 2;
  const ulonglong2 first = __ldcg(pairs);
  const ulonglong2 second = __ldcg(pairs + 1);
  pairs[0] = {0, 0};
  pairs[1] = {0, 0};
  to[threadIdx.x] = first.x;
  to[threadIdx.x + kBinSpread] = first.y;
  to[threadIdx.x + 2 * kBinSpread] = second.x;
  to[threadIdx.x + 3 * kBinSpread] = second.y;
}

// Reads this thread's bins and, of a team, leaves them zero.
__device__ inline void TakeBins(TeamState* team, bool packed, Shared& shared,
                                Tally (&bins)[kBinsPerThread]) {
  const int first = static_cast<int>(threadIdx.x) * kBinsPerThread;
  if (team == nullptr) {
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
      bins[i] = {
          shared.bin_count[first + i],
          shared.bin_low[first + i] + (static_cast<uint64_t>(shared.bin_high[first + i]) << 16)};
    }
    return;
  }
  TakeTeamWords(team->mass, shared.team_mass);
  if (!packed) TakeTeamWords(team->count, shared.team_count);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) {
    const uint64_t word = shared.team_mass[first + i];
    bins[i] = packed ? Tally{static_cast<uint32_t>(word >> kCountShift),
                             word & ((uint64_t{1} << kCountShift) - 1)}
                     : Tally{static_cast<uint32_t>(shared.team_count[first + i]), word};
  }
}

__device__ inline Extremes WarpExtremes(const Extremes& v) {
  return {__reduce_max_sync(kFullMask, v.reserved_top),
          __reduce_max_sync(kFullMask, v.residual_top),
          __reduce_max_sync(kFullMask, v.residual_bottom)};
}

// The extremes of the thread block, to every thread.
__device__ inline Extremes BlockExtremes(Extremes v, Extremes* of_warp) {
  v = WarpExtremes(v);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return WarpExtremes(lane < kWarps ? of_warp[lane] : Extremes{0, 0, 0});
}

__device__ inline void SeeResidual(float x, float& top, float& bottom) {
  top = fmaxf(top, x);
  if (x > -INFINITY) bottom = fminf(bottom, x);
}

__device__ inline Extremes MakeExtremes(float reserved_top, float top, float bottom) {
  return {BudgetOrder(reserved_top), BudgetOrder(top), ~BudgetOrder(bottom)};
}

__device__ inline void SetExtremes(const BudgetRule& rule, const Extremes& extremes,
                                   RowProblem& p) {
  p.reserved_max = FromOrder(extremes.reserved_top);
  p.top = FromOrder(extremes.residual_top);
  const float range = p.top - FromOrder(~extremes.residual_bottom);
  const float reach = rule.kind == BudgetKind::kDualTopP ? fminf(range, kMassRange) : range;
  p.scale = range > 0 ? __fdividef(static_cast<float>(kBins - 1), reach) : 1.0f;
  if (!(p.scale > 0)) p.scale = FLT_MIN;  // a range beyond the division's
  p.origin = p.top * p.scale;
}

}  // namespace
}  // namespace spotd::kernels::cuda
