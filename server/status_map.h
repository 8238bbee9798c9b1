// The one place where spotd's errors become gRPC's: code and message as they are, plus google.rpc
// details (ErrorInfo always; BadRequest where a field is at fault; RetryInfo where the engine knows
// when to try again). What is long in it, because a request quoted was, is cut.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace spotd::server {

inline constexpr std::string_view kErrorDomain = "spotd.v1";

// INVALID_ARGUMENT for one request field, named as a path ("sampling.temperature").
absl::Status FieldError(std::string_view field, std::string_view problem);

grpc::Status ToGrpcStatus(const absl::Status& status);

// "INVALID_ARGUMENT" and the like.
std::string CodeName(absl::StatusCode code);

}  // namespace spotd::server
