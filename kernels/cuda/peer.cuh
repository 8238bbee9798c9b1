// Messages between the thread blocks of a cluster: a store that reports to a barrier beside its
// target, so that the receiver needs no fence and the sender no answer. sm_90 device code only.
#pragma once

#include "kernels/cuda/hopper.cuh"

namespace spotd::kernels::cuda {

// The address in `member`'s shared memory of what lies at p in this thread block's.
__device__ inline uint32_t PeerWord(const void* p, int member) {
  uint32_t mapped = 0;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(SharedWord(p)), "r"(member));
  return mapped;
}

// Stores to `to` of `member`; its `barrier` counts the bytes (BarrierExpect there).
__device__ inline void Send(int member, void* to, uint64_t value, uint64_t* barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(
                   PeerWord(to, member)),
               "l"(value), "r"(PeerWord(barrier, member))
               : "memory");
}
__device__ inline void Send2(int member, void* to, uint64_t first, uint64_t second,
                             uint64_t* barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%0], {%1, %2}, [%3];" ::"r"(
          PeerWord(to, member)),
      "l"(first), "l"(second), "r"(PeerWord(barrier, member))
      : "memory");
}

// Makes initialised barriers known to the cluster; a barrier of the cluster must follow.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

}  // namespace spotd::kernels::cuda
