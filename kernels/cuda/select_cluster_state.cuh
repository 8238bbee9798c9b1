// What the threads of one selection by a cluster (select_cluster.cu) share and know: the messages'
// places, the row's problem, and the histogram of a member's masses. Internal to select_cluster.cu.
#pragma once

#include <cfloat>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/peer.cuh"
#include "kernels/cuda/select_rule.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kLogBins = 10;
constexpr int kBins = 1 << kLogBins;
constexpr int kMostMembers = 16;
constexpr int kMostItems = 8;  // blocks of a thread
constexpr int kWords = 32;     // of a message: what its sender is sure of, then candidates
constexpr int kSlicePad = 2;   // words between two senders' parts of a slice, for the banks
static_assert(kMostMembers * kThreads * kMostItems <= kPackedBlocks);

enum Exchange { kExtremes, kParts, kSums, kCandidates, kTrial, kTrialToo, kExchanges };

struct alignas(16) Ranked {
  uint64_t order;
  uint64_t tally;  // Pack(1, its mass)
};

struct ClusterShared {
  uint64_t barriers[kExchanges];
  uint64_t extremes[kMostMembers];  // residual top, complement of the bottom (BudgetOrder)
  alignas(16) uint64_t parts[kBins + kMostMembers * kSlicePad];  // [member, bins of a slice]
  alignas(16) uint64_t bins[kBins];                              // count << kCountShift | mass
  Ranked messages[kMostMembers][kWords];                         // the first order is a header
  uint64_t trials[2][kMostMembers];
  union {
    uint32_t histogram[3][kBins];  // low bits of masses (and the count), high bits, count
    Ranked ranked[kMostMembers * kWords];
  };
  Ranked listed[kWords];
  uint64_t of_warp[kWarps];
  uint2 extremes_of_warp[kWarps];
  uint32_t bits[kWarps * kMostItems];  // of the chosen blocks, in order
  uint32_t count_of[kMostMembers];     // blocks that a member lists
  uint64_t reserved_mass;
  float reserved_max;
  double reserved_scale;
  int32_t boundary_bin;
  uint64_t before_bin;
  int32_t num_candidates;
  uint32_t sure;
  uint64_t taken;
};

__device__ inline uint64_t Pack(uint32_t count, uint64_t mass) {
  return static_cast<uint64_t>(count) << kCountShift | mass;
}
__device__ inline uint32_t CountOf(uint64_t packed) {
  return static_cast<uint32_t>(packed >> kCountShift);
}
__device__ inline uint64_t MassOf(uint64_t packed) {
  return packed & ((uint64_t{1} << kCountShift) - 1);
}

__device__ inline uint64_t ShuffleUp(uint64_t v, int offset) {
  return __shfl_up_sync(kFullMask, static_cast<unsigned long long>(v), offset);
}
__device__ inline uint64_t ShuffleFrom(uint64_t v, int lane) {
  return __shfl_sync(kFullMask, static_cast<unsigned long long>(v), lane);
}
__device__ inline uint64_t WarpAdd(uint64_t v) {
  for (int offset = 16; offset > 0; offset /= 2)
    v += __shfl_xor_sync(kFullMask, static_cast<unsigned long long>(v), offset);
  return v;
}

// A row's problem as every thread of the cluster knows it.
template <int kItems>
struct ClusterRow {
  BudgetRule rule;
  BudgetPlan plan;
  int members;      // a power of two
  int log_members;  // divisions by members are shifts: instructions bound a selection
  int me;
  float x[kItems];  // scores; NaN is -inf
  int bin[kItems];  // of residual blocks; -1 of others
  uint32_t mass[kItems];
  float top = 0;
  float scale = 0;
  float origin = 0;
  uint64_t needed = 0;
  BudgetMasses masses = {};

  // The block of item k: a warp's are side by side.
  __device__ int32_t Block(int k) const {
    const int warp = me * kWarps + static_cast<int>(threadIdx.x / 32);
    return (warp * kItems + k) * 32 + static_cast<int32_t>(threadIdx.x % 32);
  }
  __device__ int32_t FirstBlock() const { return me * kThreads * kItems; }
  __device__ bool IsResidual(int32_t b) const {
    return b >= plan.sink_blocks && b < plan.recent_begin;
  }
  __device__ bool IsReserved(int32_t b) const { return b < plan.blocks && !IsResidual(b); }
  __device__ int BinOf(float v) const {
    const float distance = fmaf(-v, scale, origin);
    return distance < static_cast<float>(kBins - 1) ? max(static_cast<int>(distance), 0)
                                                    : kBins - 1;
  }
  __device__ bool WantsMore(uint64_t taken) const {
    const auto count = static_cast<int32_t>(CountOf(taken));
    return count < plan.min_take || (count < plan.max_take && MassOf(taken) < needed);
  }
};

// Every barrier expects the bytes of its exchange from the start.
__device__ inline void OpenExchanges(ClusterShared& s, int members) {
  if (threadIdx.x != 0) return;
  for (uint64_t& barrier : s.barriers) BarrierInit(&barrier, 1);
  FenceBarrierInit();
  BarrierExpect(&s.barriers[kExtremes], members * 8);
  BarrierExpect(&s.barriers[kParts], kBins * 8);
  BarrierExpect(&s.barriers[kSums], kBins * 8);
  BarrierExpect(&s.barriers[kCandidates], members * kWords * static_cast<int>(sizeof(Ranked)));
  BarrierExpect(&s.barriers[kTrial], members * 8);
  BarrierExpect(&s.barriers[kTrialToo], members * 8);
}

// How masses split between the words of the histogram: two additions of native width where the
// count fits over the low bits.
template <int kItems>
struct Split {
  static constexpr bool kCountApart = kItems > 2;
  static constexpr int kLowBits = kItems == 1 ? 12 : kItems == 2 ? 11 : 16;
  static constexpr int kCountAt = kItems == 1 ? 22 : 21;  // above kThreads * kItems low parts
  static constexpr uint32_t kLowMask = (1u << kLowBits) - 1;
};

template <int kItems>
__device__ inline void AddToHistogram(ClusterShared& s, int bin, uint32_t count, uint32_t low,
                                      uint32_t high) {
  using S = Split<kItems>;
  if constexpr (S::kCountApart) {
    atomicAdd(&s.histogram[2][bin], count);
    if (low != 0) atomicAdd(&s.histogram[0][bin], low);
  } else {
    atomicAdd(&s.histogram[0][bin], count << S::kCountAt | low);
  }
  if (high != 0) atomicAdd(&s.histogram[1][bin], high);
}

// This member's blocks into its histogram. A warp whose lanes all meet adds once, and so do lanes
// that meet in the last bin without a mass.
template <int kItems>
__device__ inline void FillHistogram(ClusterRow<kItems>& row, ClusterShared& s) {
  using S = Split<kItems>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const bool counts = row.IsResidual(row.Block(k));
    const uint32_t mass = counts ? BudgetMass(row.x[k], row.top) : 0;
    row.mass[k] = mass;
    row.bin[k] = counts ? row.BinOf(row.x[k]) : -1;
    const int bin = row.bin[k];
    if (__all_sync(kFullMask, bin == __shfl_sync(kFullMask, bin, 0))) {
      const uint32_t low = __reduce_add_sync(kFullMask, mass & S::kLowMask);
      const uint32_t high = __reduce_add_sync(kFullMask, mass >> S::kLowBits);
      if (lane == 0 && counts) AddToHistogram<kItems>(s, bin, 32, low, high);
      continue;
    }
    const unsigned empty = __ballot_sync(kFullMask, bin == kBins - 1 && mass == 0);
    if ((empty >> lane & 1) != 0) {
      if (lane == __ffs(static_cast<int>(empty)) - 1)
        AddToHistogram<kItems>(s, bin, __popc(empty), 0, 0);
    } else if (counts) {
      AddToHistogram<kItems>(s, bin, 1, mass & S::kLowMask, mass >> S::kLowBits);
    }
  }
  __syncthreads();
}

template <int kItems>
__device__ inline uint64_t HistogramBin(const ClusterShared& s, int bin) {
  using S = Split<kItems>;
  const uint32_t word = s.histogram[0][bin];
  const uint64_t high = static_cast<uint64_t>(s.histogram[1][bin]) << S::kLowBits;
  if constexpr (S::kCountApart) return Pack(s.histogram[2][bin], high + word);
  return Pack(word >> S::kCountAt, high + (word & ((1u << S::kCountAt) - 1)));
}

}  // namespace
}  // namespace spotd::kernels::cuda
