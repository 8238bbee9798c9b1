// The load of spot-bench serve on an engine in this process, with random weights: what continuous
// batching does at a geometry of which there is no checkpoint. No network, no gRPC.
#pragma once

#include "absl/status/statusor.h"
#include "tools/common/loaded_model.h"
#include "tools/spot_bench/serve_load.h"

namespace spotd::bench {

// `model.model` is "synthetic:qwen3-8b" or the like. The engine runs up to `concurrency` requests
// at a time (open loop: 64) and has KV for as many of the longest kind. Errors say what does not
// fit.
absl::StatusOr<LoadResult> RunEngineLoad(const LoadOptions& options,
                                         const tools::ModelOptions& model,
                                         const model::Policy& policy);

}  // namespace spotd::bench
