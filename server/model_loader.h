// From files on disk to a running engine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/engine/engine.h"
#include "server/config.h"

namespace spotd::server {

// The device that the options name. Errors name the flag.
using DeviceOpener =
    std::function<absl::StatusOr<std::unique_ptr<kernels::Backend>>(const ServerConfig& config)>;
absl::StatusOr<std::unique_ptr<kernels::Backend>> OpenDevice(const ServerConfig& config);

// Loads model, selector and tokenizer onto the device and starts the engine. Errors name the file
// or the flag, and what does not fit on a device the figures.
absl::StatusOr<std::unique_ptr<engine::Engine>> LoadEngine(
    const ServerConfig& config, const model::Policy& default_policy,
    const DeviceOpener& open_device = OpenDevice);

// The id of "models/{id}": the name with everything but letters, digits, '.', '_' and '-' replaced.
std::string ModelId(const std::string& name);

}  // namespace spotd::server
