// The checks and conversions that Generate and Complete share.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/request.h"
#include "server/service_context.h"
#include "spotd/v1/inference.pb.h"

namespace spotd::server {

// Everything but `cancel`, `deadline` and `sink`. Asks the engine for the session's policy when the
// request changes it.
absl::StatusOr<engine::GenerateRequest> ToGenerateRequest(const v1::GenerateRequest& message,
                                                          const std::string& tenant,
                                                          const ServiceContext& context);
absl::StatusOr<engine::GenerateRequest> ToGenerateRequest(const v1::CompleteRequest& message,
                                                          const std::string& tenant,
                                                          const ServiceContext& context);

// RESOURCE_EXHAUSTED (SERVER_BUSY): the workers' queue is full.
absl::Status ServerBusy();

}  // namespace spotd::server
