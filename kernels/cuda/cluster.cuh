// Thread block clusters (sm_90). On earlier devices a cluster is one thread block, and no kernel is
// launched with more.
#pragma once

#include "kernels/cuda/device.cuh"

namespace spotd::kernels::cuda {

__device__ inline int ClusterSize() {
  uint32_t size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return static_cast<int>(size);
}

__device__ inline int ClusterRank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}

// A barrier over the cluster's threads that orders their shared-memory accesses.
__device__ inline void ClusterSync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
#else
  __syncthreads();
#endif
}

// Its two halves, without the order: for what a fence of its own orders (FenceBarrierInit).
__device__ inline void ClusterArriveRelaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ inline void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same shared variable in another member of the cluster, as a generic pointer.
template <typename T>
__device__ inline T* ClusterPointer(T* p, int member) {
#if __CUDA_ARCH__ >= 900
  uint64_t mapped = 0;
  asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(reinterpret_cast<uint64_t>(p)), "r"(member));
  return reinterpret_cast<T*>(mapped);
#else
  return p;
#endif
}

}  // namespace spotd::kernels::cuda
