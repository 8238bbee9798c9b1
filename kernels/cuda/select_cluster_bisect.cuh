// The choice of a cluster's row whose boundary bin holds more candidates than messages do. Internal
// to select_cluster.cu.
#pragma once

#include "kernels/cuda/select_cluster_state.cuh"

namespace spotd::kernels::cuda {
namespace {

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

}  // namespace
}  // namespace spotd::kernels::cuda
