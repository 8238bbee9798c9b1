// Marks functions that both the host compiler and nvcc compile: the small pieces of arithmetic
// whose result must be the same wherever they run.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SPOTD_HOST_DEVICE __host__ __device__
#else
#define SPOTD_HOST_DEVICE
#endif

namespace spotd {

// The bits of a binary32, and back. (std::bit_cast is not callable from device code.)
SPOTD_HOST_DEVICE inline uint32_t FloatBits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof(bits));
  return bits;
}
SPOTD_HOST_DEVICE inline float FloatFromBits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof(f));
  return f;
}

}  // namespace spotd
