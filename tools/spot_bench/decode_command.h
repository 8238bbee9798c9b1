// spot-bench decode: whole decode steps, by one or several policies and context lengths.
#pragma once

#include "absl/status/status.h"
#include "tools/spot_bench/measure.h"

namespace spotd::bench {

// Policies and sweep are in flags, the rest in `options`. One JSON object a line, or text.
absl::Status RunDecode(BenchOptions options, bool json);

}  // namespace spotd::bench
