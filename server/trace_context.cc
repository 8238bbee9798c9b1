#include "server/trace_context.h"

namespace spotd::server {
namespace {

constexpr size_t kLength = 55;  // "00-" 32 "-" 16 "-" 2

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == text.npos;
}

bool IsZero(std::string_view text) {
  return text.find_first_not_of('0') == text.npos;
}

}  // namespace

std::optional<TraceContext> ParseTraceParent(std::string_view header) {
  if (header.size() < kLength) return std::nullopt;
  const std::string_view version = header.substr(0, 2);
  const std::string_view trace_id = header.substr(3, 32);
  const std::string_view parent_id = header.substr(36, 16);
  const std::string_view flags = header.substr(53, 2);
  if (header[2] != '-' || header[35] != '-' || header[52] != '-') return std::nullopt;
  if (!IsHex(version) || version == "ff" || !IsHex(flags)) return std::nullopt;
  if (!IsHex(trace_id) || IsZero(trace_id) || !IsHex(parent_id) || IsZero(parent_id)) {
    return std::nullopt;
  }
  // A later version may say more after the flags.
  if (header.size() > kLength && (version == "00" || header[kLength] != '-')) return std::nullopt;
  return TraceContext{std::string(trace_id), std::string(parent_id)};
}

}  // namespace spotd::server
