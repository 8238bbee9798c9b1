// The messages of a RowFlow on the device.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/row_flow.h"

namespace spotd::kernels::cuda {

// How long a thread sleeps between two looks: less than a look takes.
inline constexpr unsigned kLookEvery = 100;  // ns

__device__ inline void PostScores(uint32_t* to, uint32_t first, uint32_t second) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(first), "r"(second)
               : "memory");
}
__device__ inline void PostScore(uint32_t* to, uint32_t score) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(score) : "memory");
}

__device__ inline uint32_t LookForScore(const uint32_t* from) {
  uint32_t score;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(score) : "l"(from) : "memory");
  return score;
}
__device__ inline uint32_t AwaitScore(const uint32_t* from) {
  uint32_t score = LookForScore(from);
  while (score == 0) {
    __nanosleep(kLookEvery);
    score = LookForScore(from);
  }
  return score;
}

// By one thread, after a barrier with those that wrote the member's part of the list.
__device__ inline void AnnounceMember(const RowFlow& flow, int row, uint32_t blocks) {
  asm volatile(
      "fence.acq_rel.gpu;\nred.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(flow.ready + row),
      "r"(kMemberDone + blocks)
      : "memory");
}

// The number of blocks in the row's list, which this thread may read from then on.
__device__ inline int AwaitList(const RowFlow& flow, int row) {
  uint32_t ready;
  const auto look = [&] {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                 : "=r"(ready)
                 : "l"(flow.ready + row)
                 : "memory");
    return ready / kMemberDone == static_cast<uint32_t>(flow.members);
  };
  while (!look()) __nanosleep(kLookEvery);
  return static_cast<int>(ready % kMemberDone);
}

}  // namespace spotd::kernels::cuda
