// A tiny random checkpoint on disk (tests/data/models/qwen3) with as much context as a test needs.
#pragma once

#include <cstdint>
#include <string>

namespace spotd::testing {

// Copies the checkpoint to a temporary directory with `context_length` in its configuration and
// returns the path. The directory lives as long as the test program.
std::string TinyModel(int32_t context_length);

// A fresh empty directory that lives as long as the test program.
std::string TemporaryDirectory();

}  // namespace spotd::testing
