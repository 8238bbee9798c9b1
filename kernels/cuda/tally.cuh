// Exact sums (a count and a fixed-point mass) over a thread block or a cluster: independent of the
// order of addition.
#pragma once

#include "kernels/cuda/cluster.cuh"

namespace spotd::kernels::cuda {

struct Tally {
  uint32_t count;
  uint64_t mass;
};

// Shared memory of the sums; one per thread block of up to 1024 threads.
struct TallySpace {
  Tally warps[32];
  Tally member;
};

__device__ inline uint64_t ShuffleXor(uint64_t v, int offset) {
  return __shfl_xor_sync(kFullMask, static_cast<unsigned long long>(v), offset);
}

__device__ inline Tally WarpTally(Tally v) {
  for (int offset = 16; offset > 0; offset /= 2) {
    v.count += __shfl_xor_sync(kFullMask, v.count, offset);
    v.mass += ShuffleXor(v.mass, offset);
  }
  return v;
}

// The sum over 1024 threads, to every thread.
__device__ inline Tally BlockTally(Tally v, TallySpace& space) {
  v = WarpTally(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) space.warps[threadIdx.x / 32] = v;
  __syncthreads();
  return WarpTally(space.warps[threadIdx.x % 32]);
}

// The sum over the cluster's thread blocks of 1024 threads, to every thread.
template <bool kCluster>
__device__ inline Tally ClusterTally(Tally v, TallySpace& space) {
  Tally total = BlockTally(v, space);
  if constexpr (kCluster) {
    if (threadIdx.x == 0) space.member = total;
    ClusterSync();
    total = {0, 0};
    for (int m = 0; m < ClusterSize(); ++m) {
      const Tally& other = *ClusterPointer(&space.member, m);
      total.count += other.count;
      total.mass += other.mass;
    }
    ClusterSync();
  }
  return total;
}

}  // namespace spotd::kernels::cuda
