// What may stand after `|`.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/arguments.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

bool HasFilter(const std::string& name);
absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value,
                                  const Arguments& arguments, Budget* budget);

}  // namespace spotd::text::jinja
