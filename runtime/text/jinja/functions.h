// The global functions of chat templates.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/arguments.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

inline constexpr char kRaiseException[] = "raise_exception";
inline constexpr const char* kFunctions[] = {"namespace", "range", "dict", "strftime_now",
                                             kRaiseException};

// `name` is one of kFunctions. raise_exception fails with the text that it is given.
absl::StatusOr<Value> CallFunction(const std::string& name, const Arguments& arguments,
                                   std::chrono::system_clock::time_point now, Budget* budget);

}  // namespace spotd::text::jinja
