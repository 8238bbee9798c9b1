// The operator's limits, as the engine takes them.
#pragma once

#include "absl/status/status.h"
#include "runtime/engine/engine.h"
#include "server/service_limits.h"

namespace spotd::server {

// INVALID_ARGUMENT names the flag.
absl::Status ApplyServiceLimits(const ServiceLimits& limits, engine::EngineOptions* options);

}  // namespace spotd::server
