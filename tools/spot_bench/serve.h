// spot-bench serve: puts load on a running spotd over gRPC, or on an engine with random weights in
// this process, and reports what its clients saw.
#pragma once

#include "absl/status/status.h"

namespace spotd::bench {

// As the flags say. Prints the report; UNAVAILABLE when there is no server.
absl::Status RunServe();

}  // namespace spotd::bench
