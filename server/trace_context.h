// W3C Trace Context of a call: https://www.w3.org/TR/trace-context/
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace spotd::server {

struct TraceContext {
  std::string trace_id;   // 32 hex digits
  std::string parent_id;  // 16 hex digits: the caller's span
};

// Reads the metadata "traceparent". Nothing for a value the standard calls invalid: wrong length or
// characters, an all-zero id, version ff, or more after the flags in version 00.
std::optional<TraceContext> ParseTraceParent(std::string_view header);

}  // namespace spotd::server
