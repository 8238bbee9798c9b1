// Every reason that an error of spotd can carry, and what it means: the one table that the docs and
// the tests are made from.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace spotd::engine {

struct ReasonInfo {
  const char* reason;  // UPPER_SNAKE, at most 63 characters
  absl::StatusCode code;
  bool retry_info;       // carries RetryInfo: the same call may succeed later
  const char* metadata;  // keys of ErrorInfo.metadata, separated by a space; may be empty
  const char* meaning;   // for people, as is the next
  const char* what_to_do;
};

// In the order of the docs: grouped by code.
std::span<const ReasonInfo> ErrorCatalogue();
// Null when there is no such reason.
const ReasonInfo* FindReason(std::string_view reason);

// docs/errors.md.
std::string ErrorReference();

}  // namespace spotd::engine
