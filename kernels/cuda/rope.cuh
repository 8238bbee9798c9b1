// Rotary embedding of one pair (Rope in args.h).
#pragma once

#include "kernels/args.h"
#include "kernels/cuda/device.cuh"

namespace spotd::kernels::cuda {

// (cos, sin) of pair i's angle, times the magnitude. The angle is reduced in double: at position
// 1e6 a float angle has lost its second decimal.
__device__ inline float2 RopeTurn(const Rope& rope, int i, int position) {
  constexpr double kTurn = 6.283185307179586;
  const double angle = static_cast<double>(position) * static_cast<double>(rope.inv_freq[i]);
  const auto reduced = static_cast<float>(angle - kTurn * rint(angle * (1.0 / kTurn)));
  float sine;
  float cosine;
  sincosf(reduced, &sine, &cosine);
  return {cosine * rope.magnitude, sine * rope.magnitude};
}

// Turns the pair (low, high) = dims (i, i + rotary_dim / 2).
__device__ inline float2 Turned(float2 turn, float low, float high) {
  return {low * turn.x - high * turn.y, high * turn.x + low * turn.y};
}

// The turns of a lane's pairs: lane, lane + 32, ... Made before a kernel waits for its inputs.
struct LaneTurns {
  static constexpr int kHeld = 4;  // up to 256 rotary dims; more are made when they are needed
  float2 held[kHeld];
};

__device__ inline LaneTurns MakeTurns(const Rope& rope, int position) {
  LaneTurns turns;
#pragma unroll
  for (int j = 0; j < LaneTurns::kHeld; ++j) {
    const int i = static_cast<int>(threadIdx.x) % 32 + 32 * j;
    turns.held[j] = i < rope.rotary_dim / 2 ? RopeTurn(rope, i, position) : float2{1, 0};
  }
  return turns;
}

}  // namespace spotd::kernels::cuda
