// Machine-readable reasons for the errors a client can meet, carried inside absl::Status.
//
// `server` turns them into google.rpc.ErrorInfo (reason, domain "spotd.v1", metadata), BadRequest
// and RetryInfo.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace spotd::engine {

struct ErrorDetails {
  std::string reason;                                // UPPER_SNAKE, one of error_reasons.h
  std::string field = {};                            // request field at fault; empty when none
  std::map<std::string, std::string> metadata = {};  // e.g. {"limit", "8192"}
  std::optional<std::chrono::milliseconds> retry_after = {};
};

// Attaches details to a status. The message stays for people; the details are for programs.
absl::Status MakeError(absl::StatusCode code, std::string_view message,
                       const ErrorDetails& details);
// The details of a status made by MakeError; otherwise a reason of the catalogue that fits the
// code.
ErrorDetails GetErrorDetails(const absl::Status& status);

}  // namespace spotd::engine
