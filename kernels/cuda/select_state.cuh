// What the thread blocks of one selection (select.cu) share and know: a row's problem, the running
// sums, and how members of a cluster read each other's copies. Internal to select.cu.
#pragma once

#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/tally.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = kThreads;
constexpr int kMaxCandidates = 1024;  // over the cluster
// The most blocks per thread that there are kernels for.
constexpr int kMaxPerThread = 64;
// Masses vanish this far under the largest lse: bins of a mass-driven rule need not reach further.
constexpr float kMassRange = 22.5f;

struct Extremes {
  float reserved_max;
  float residual_max;
  float residual_min;  // finite values only
};

struct Totals {
  uint64_t reserved;
  uint64_t residual;
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
  Candidate own[kMaxCandidates];  // this member's candidates
  union {
    Candidate all[kMaxCandidates];                // the cluster's
    uint32_t warp_count[kMaxPerThread * kWarps];  // later: chosen blocks of each round and warp
  };
  TallySpace tally;
  Extremes warp_extremes[kWarps];
  Extremes extremes;
  Totals warp_totals[kWarps];
  Totals totals;
  uint64_t needed;
  Boundary boundary;
  int32_t boundary_bin;  // -1: none
  Tally before_bin;
  int32_t candidates;
  uint32_t count;
};

// Reads another member's copy of a shared variable.
template <int kMembers, typename T>
__device__ inline const T& Of(const T& variable, int member) {
  if constexpr (kMembers > 1) {
    return *ClusterPointer(const_cast<T*>(&variable), member);
  } else {
    return variable;
  }
}

template <int kMembers>
__device__ inline void SyncMembers() {
  if constexpr (kMembers > 1) {
    ClusterSync();
  } else {
    __syncthreads();
  }
}

// A row's problem as every thread knows it, with the thread's blocks: block e of a thread is begin
// + e * 1024 + thread.
template <int kPerThread>
struct RowProblem {
  BudgetPlan plan;
  int32_t begin;  // this member's blocks
  int32_t end;
  uint64_t needed;        // the rule wants more below this mass
  float top;              // residual maximum
  float scale;            // bins per unit of lse
  float lse[kPerThread];  // NaN reads as -inf

  __device__ int32_t Block(int e) const {
    return begin + e * kThreads + static_cast<int>(threadIdx.x);
  }
  __device__ bool IsReserved(int32_t b) const {
    return b < plan.sink_blocks || b >= plan.recent_begin;
  }
  __device__ bool IsResidual(int e) const { return Block(e) < end && !IsReserved(Block(e)); }
  __device__ int BinOf(float x) const {
    const float distance = (top - x) * scale;
    return distance < static_cast<float>(kBins - 1) ? static_cast<int>(distance)
                                                    : kBins - 1;  // NaN goes last
  }
  // BudgetWantsMore in integers: masses are exact.
  __device__ bool WantsMore(uint32_t count, uint64_t mass) const {
    const auto taken = static_cast<int32_t>(count);
    return taken < plan.min_take || (taken < plan.max_take && mass < needed);
  }
};

}  // namespace
}  // namespace spotd::kernels::cuda
