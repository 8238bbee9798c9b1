// How option values are written and read: sizes, durations, whole numbers, fractions.
//
// Each reader says in its error what it got and what it takes; bounds are inclusive.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace spotd::server {

// A number of bytes, written "2GiB", "512MiB", "64KiB", "1GB" (10^9) or plain.
struct ByteSize {
  size_t bytes = 0;
};

absl::Status ParseByteSize(std::string_view text, ByteSize min, ByteSize max, ByteSize* out);
// Written "30s", "500ms", "2m" or "1h".
absl::Status ParseDuration(std::string_view text, std::chrono::milliseconds min,
                           std::chrono::milliseconds max, std::chrono::milliseconds* out);
absl::Status ParseInteger(std::string_view text, int32_t min, int32_t max, int32_t* out);
absl::Status ParseFraction(std::string_view text, float min, float max, float* out);

std::string FormatByteSize(ByteSize size);
std::string FormatDuration(std::chrono::milliseconds duration);
// "1 to 64", or "at least 1" when there is no upper bound.
std::string FormatBounds(int32_t min, int32_t max);

}  // namespace spotd::server
