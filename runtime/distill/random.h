// Random numbers as a function of (seed, index): a resumed training run draws what an uninterrupted
// one would have drawn.
#pragma once

#include <cstdint>

namespace spotd::distill {

// SplitMix64's finaliser (Steele et al., "Fast splittable pseudorandom number generators", 2014).
inline uint64_t RandomBits(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Uniform in [0, 1).
inline double RandomUnit(uint64_t seed, uint64_t index) {
  return static_cast<double>(RandomBits(seed, index) >> 11) * 0x1p-53;
}

}  // namespace spotd::distill
