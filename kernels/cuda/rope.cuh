// Rotary embedding of one pair (Rope in args.h).
#pragma once

#include "kernels/args.h"
#include "kernels/cuda/device.cuh"

namespace spotd::kernels::cuda {

// Turns (low, high) = dims (i, i + rotary_dim / 2). The angle is reduced in double: at position 1e6
// a float angle has lost its second decimal.
__device__ inline float2 Rotate(const Rope& rope, int i, int position, float low, float high) {
  constexpr double kTurn = 6.283185307179586;
  const double angle = static_cast<double>(position) * static_cast<double>(rope.inv_freq[i]);
  const auto reduced = static_cast<float>(angle - kTurn * rint(angle * (1.0 / kTurn)));
  float sine;
  float cosine;
  sincosf(reduced, &sine, &cosine);
  sine *= rope.magnitude;
  cosine *= rope.magnitude;
  return {low * cosine - high * sine, high * cosine + low * sine};
}

}  // namespace spotd::kernels::cuda
