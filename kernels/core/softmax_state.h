// The algebra of a softmax computed in pieces: what is kept of a piece, and how two pieces merge.
//
// A piece with scores x_j and values v_j is (max, sum, acc) with sum = sum_j exp(x_j - max) and
// acc = sum_j exp(x_j - max) v_j. Merging is exact up to rounding, so a result that must not depend
// on scheduling merges its pieces in one fixed order.
#pragma once

#include <cmath>

#include "kernels/core/host_device.h"

namespace spotd {

struct SoftmaxState {
  float max;  // -infinity for the empty piece
  float sum;
};

SPOTD_HOST_DEVICE inline SoftmaxState EmptySoftmaxState() {
  return {-INFINITY, 0.0f};
}

// The merged state, and what each side's `acc` is multiplied by before they are added.
struct SoftmaxMerge {
  SoftmaxState state;
  float scale_a;
  float scale_b;
};

SPOTD_HOST_DEVICE inline SoftmaxMerge MergeSoftmax(SoftmaxState a, SoftmaxState b) {
  const float max = a.max > b.max ? a.max : b.max;
  // -inf - -inf is NaN: an empty side weighs nothing, whatever the other one is.
  const float scale_a = a.max == -INFINITY ? 0.0f : expf(a.max - max);
  const float scale_b = b.max == -INFINITY ? 0.0f : expf(b.max - max);
  return {{max, a.sum * scale_a + b.sum * scale_b}, scale_a, scale_b};
}

// log sum_j exp(x_j); -infinity for the empty piece.
SPOTD_HOST_DEVICE inline float LogSumExp(SoftmaxState s) {
  return s.max == -INFINITY ? -INFINITY : s.max + logf(s.sum);
}

// What acc is multiplied by to give the attention output: 0 for the empty piece.
SPOTD_HOST_DEVICE inline float InverseSum(SoftmaxState s) {
  return s.sum > 0.0f ? 1.0f / s.sum : 0.0f;
}

}  // namespace spotd
