// A query of the selector as quantised keys meet it on the CPU backend.
#pragma once

#include <cstdint>

namespace spotd::kernels::cpu {

// One head's dimensions that share a scale of the key.
template <int kGroup>
struct RoundedQuery {
  int8_t values[kGroup];  // q is about scale * values
  float scale;
  int32_t start;  // what the key's codes, which have no sign, add too much
};

}  // namespace spotd::kernels::cpu
