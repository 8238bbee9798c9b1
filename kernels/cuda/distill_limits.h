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

// Bytes of LaunchTeacher: each head's log-sum-exps, whole and residual, as maximum and sum of each
// warp and then as one number.
constexpr size_t TeacherSharedBytes(int32_t q_heads) {
  return static_cast<size_t>(q_heads) * kTeacherQueries * 2 *
         (kTeacherWarps * 2 * sizeof(float) + sizeof(float));
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
  limits.q_heads = static_cast<int32_t>(bytes / TeacherSharedBytes(1));
  limits.rows = static_cast<int32_t>(bytes / sizeof(float));
  while (limits.rows > 0 && kLossStaticBytes + LossSharedBytes(limits.rows, block_tokens) > bytes) {
    --limits.rows;
  }
  return limits;
}

}  // namespace spotd::kernels::cuda
