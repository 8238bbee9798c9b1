#include "server/option_values.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::server {
namespace {

template <typename T>
bool ParseNumber(std::string_view text, T* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

// "2GiB" -> 2 and "GiB". False for what is no finite number of at least 0.
bool SplitUnit(std::string_view text, double* number, std::string_view* unit) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  *unit = text.substr(static_cast<size_t>(end - text.data()));
  return error == std::errc() && std::isfinite(*number) && *number >= 0;
}

}  // namespace

absl::Status ParseByteSize(std::string_view text, ByteSize min, ByteSize max, ByteSize* out) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},          {"B", 1},
      {"KiB", 1024.0},  {"MiB", 1024.0 * 1024},
      {"GiB", 1 << 30}, {"TiB", 1ull << 40},
      {"KB", 1e3},      {"MB", 1e6},
      {"GB", 1e9},      {"TB", 1e12}};
  double number = 0;
  std::string_view unit;
  if (SplitUnit(text, &number, &unit)) {
    for (const auto& [name, factor] : kUnits) {
      if (unit != name) continue;
      const double bytes = number * factor;
      if (bytes < static_cast<double>(min.bytes) || bytes > static_cast<double>(max.bytes)) {
        return InvalidArgument("\"", text, "\" is not a size from ", FormatByteSize(min), " to ",
                               FormatByteSize(max));
      }
      out->bytes = static_cast<size_t>(bytes);
      return absl::OkStatus();
    }
  }
  return InvalidArgument("\"", text, "\" is not a size such as 2GiB or 512MiB");
}

absl::Status ParseDuration(std::string_view text, std::chrono::milliseconds min,
                           std::chrono::milliseconds max, std::chrono::milliseconds* out) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}};
  double number = 0;
  std::string_view unit;
  if (SplitUnit(text, &number, &unit)) {
    for (const auto& [name, factor] : kUnits) {
      if (unit != name) continue;
      const double ms = number * factor;
      if (ms < static_cast<double>(min.count()) || ms > static_cast<double>(max.count())) {
        return InvalidArgument("\"", text, "\" is not a duration from ", FormatDuration(min),
                               " to ", FormatDuration(max));
      }
      *out = std::chrono::milliseconds(static_cast<int64_t>(ms));
      return absl::OkStatus();
    }
  }
  return InvalidArgument("\"", text, "\" is not a duration such as 30s, 500ms or 2m");
}

absl::Status ParseInteger(std::string_view text, int32_t min, int32_t max, int32_t* out) {
  int32_t number = 0;
  if (ParseNumber(text, &number) && number >= min && number <= max) {
    *out = number;
    return absl::OkStatus();
  }
  if (max == std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("\"", text, "\" is not an integer of at least ", min);
  }
  return InvalidArgument("\"", text, "\" is not an integer from ", min, " to ", max);
}

absl::Status ParseFraction(std::string_view text, float min, float max, float* out) {
  float number = 0;
  // Written so that NaN is refused.
  if (ParseNumber(text, &number) && number >= min && number <= max) {
    *out = number;
    return absl::OkStatus();
  }
  return InvalidArgument("\"", text, "\" is not a number from ", min, " to ", max);
}

std::string FormatByteSize(ByteSize size) {
  for (const auto& [shift, unit] : {std::pair{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}}) {
    const size_t one = size_t{1} << shift;
    if (size.bytes >= one && size.bytes % one == 0) return Concat(size.bytes >> shift, unit);
  }
  return Concat(size.bytes);
}

std::string FormatDuration(std::chrono::milliseconds duration) {
  const int64_t ms = duration.count();
  if (ms > 0 && ms % 3'600'000 == 0) return Concat(ms / 3'600'000, "h");
  return ms % 1000 == 0 ? Concat(ms / 1000, "s") : Concat(ms, "ms");
}

std::string FormatBounds(int32_t min, int32_t max) {
  if (max == std::numeric_limits<int32_t>::max()) return Concat("at least ", min);
  return Concat(min, " to ", max);
}

}  // namespace spotd::server
