// From files on disk to a running engine.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "server/config.h"

namespace spotd::server {

// Loads model, selector and tokenizer onto the backend and starts the engine. Errors name the file
// or the flag.
absl::StatusOr<std::unique_ptr<engine::Engine>> LoadEngine(const ServerConfig& config,
                                                           const model::Policy& default_policy);

// The id of "models/{id}": the name with everything but letters, digits, '.', '_' and '-' replaced.
std::string ModelId(const std::string& name);

}  // namespace spotd::server
