// Values as text: str() and repr() of Python, and json.dumps.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

// As {{ value }} prints it; undefined is nothing.
absl::StatusOr<std::string> Str(const Value& value, Budget* budget);

struct JsonOptions {
  std::optional<std::string> indent;  // per level; without it everything is on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};
absl::StatusOr<std::string> Json(const Value& value, const JsonOptions& options, Budget* budget);

// The shortest text that reads back as the same number, in Python's notation.
std::string FormatFloat(double value);

}  // namespace spotd::text::jinja
