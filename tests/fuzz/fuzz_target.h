// A fuzz target gets bytes that an attacker chose and must neither crash, leak, hang nor use much
// memory. Built with libFuzzer by the `fuzz` preset; by every other preset as a test that replays
// the seeds and mutations of them (replay_main.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

// Defined by each target. Always 0.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace spotd::fuzz {

inline std::string_view AsText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace spotd::fuzz
