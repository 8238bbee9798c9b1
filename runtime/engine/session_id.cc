#include "runtime/engine/session_id.h"

#include <cstdint>
#include <random>

namespace spotd::engine {

std::string NewSessionId() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;
  std::string id;
  for (int word = 0; word < 2; ++word) {
    uint32_t bits = random();
    for (int digit = 0; digit < 8; ++digit, bits >>= 4) id += kDigits[bits & 15];
  }
  return id;
}

}  // namespace spotd::engine
