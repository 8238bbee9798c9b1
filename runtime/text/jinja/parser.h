// Template source -> syntax tree.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/ast.h"

namespace spotd::text::jinja {

// Errors are INVALID_ARGUMENT with line and column; tags that this engine does not have are named.
// Nesting and size are bounded.
absl::StatusOr<Body> Parse(std::string_view source);

}  // namespace spotd::text::jinja
