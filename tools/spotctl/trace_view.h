// A trace on a terminal: a strip of the context for each token, dark where many layers read.
#pragma once

#include <string>

#include "tools/spotctl/trace_data.h"

namespace spotd::spotctl {

// Several lines of at most `width` columns. `color` shades with 24-bit colours, else with
// characters. Of a long reply, neighbouring tokens share a row, so that it has at most `max_rows`.
std::string RenderTrace(const TraceData& trace, int width, int max_rows, bool color);

}  // namespace spotd::spotctl
