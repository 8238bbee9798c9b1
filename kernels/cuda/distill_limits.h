// What the training kernels need of a thread block's shared memory, and so how large a model and
// how long a text they take. Host arithmetic without CUDA's headers: tests run it where there is no
// GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/distill_args.h"

namespace spotd::kernels::cuda {

inline constexpr int kTeacherWarps = 16;
inline constexpr int kTeacherQueries = 16;  // of a thread block
inline constexpr int kTeacherHeads = 16;    // whose sums are kept apart by warp at a time

// Bytes of LaunchTeacher: log-sum-exps, whole and residual, as maximum and sum of each warp for up
// to kTeacherHeads heads, and as one number for every head.
constexpr size_t TeacherSharedBytes(int32_t q_heads) {
  const auto heads = static_cast<size_t>(q_heads);
  const size_t apart = heads < kTeacherHeads ? heads : kTeacherHeads;
  return kTeacherQueries * 2 * (apart * kTeacherWarps * 2 * sizeof(float) + heads * sizeof(float));
}

// Bytes of LaunchLoss: a float for each row and each block, and a mark for each block.
constexpr size_t LossSharedBytes(int32_t rows, int32_t block_tokens) {
  const auto blocks = static_cast<size_t>((rows + block_tokens - 1) / block_tokens);
  return (static_cast<size_t>(rows) + blocks) * sizeof(float) + blocks;
}

// What its kernel keeps there besides: kLossScratch floats, aligned.
inline constexpr int kLossScratch = 33;
inline constexpr size_t kLossStaticBytes = (kLossScratch * sizeof(float) + 15) / 16 * 16;

// The limits of a device whose thread blocks may have `bytes` of shared memory.
constexpr DistillLimits LimitsOfSharedMemory(size_t bytes, int32_t block_tokens) {
  DistillLimits limits;
  const size_t apart = TeacherSharedBytes(kTeacherHeads);
  limits.q_heads = static_cast<int32_t>(
      bytes < apart
          ? bytes / TeacherSharedBytes(1)
          : kTeacherHeads + (bytes - apart) / (TeacherSharedBytes(kTeacherHeads + 1) - apart));
  limits.rows = static_cast<int32_t>(bytes / sizeof(float));
  while (limits.rows > 0 && kLossStaticBytes + LossSharedBytes(limits.rows, block_tokens) > bytes) {
    --limits.rows;
  }
  return limits;
}

}  // namespace spotd::kernels::cuda
