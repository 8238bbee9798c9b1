// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random
// number is a pure function of (seed, draw), so that a sampled token depends on neither the batch
// nor the device.
#pragma once

#include <cstdint>

#include "kernels/core/host_device.h"

namespace spotd {

struct Philox4 {
  uint32_t word[4];
};

SPOTD_HOST_DEVICE inline Philox4 PhiloxBlock(uint64_t key, uint64_t counter_low,
                                             uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  Philox4 x = {{static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)}};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * x.word[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * x.word[2];
    x = {{static_cast<uint32_t>(b >> 32) ^ x.word[1] ^ k0, static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ x.word[3] ^ k1, static_cast<uint32_t>(a)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x;
}

// The uniform number of draw `draw`, in [0, 1), a multiple of 2^-24.
SPOTD_HOST_DEVICE inline float PhiloxUniform(uint64_t seed, uint64_t draw) {
  return static_cast<float>(PhiloxBlock(seed, draw, 0).word[0] >> 8) * 0x1p-24f;
}

}  // namespace spotd
