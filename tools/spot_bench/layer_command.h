// spot-bench attention, select and linear: the operations of one layer of a geometry, timed one by
// one beside the bytes or arithmetic that they cannot avoid. No weights are loaded.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace spotd::bench {

// `command` is "attention", "select" or "linear"; the rest is in flags.
absl::Status RunLayerCommand(const std::string& command);

}  // namespace spotd::bench
