// Methods of str, list, tuple and dict that templates call, as Python has them. Methods that would
// change their object are refused: a template may not.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/arguments.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

bool HasMethod(const Value& object, const std::string& name);
absl::StatusOr<Value> CallMethod(const Value& object, const std::string& name,
                                 const Arguments& arguments, Budget* budget);

}  // namespace spotd::text::jinja
