// A trace as one self-contained HTML page: the reply's tokens beside the context, which is shaded
// where the chosen token read. No network, no libraries.
#pragma once

#include <string>

#include "tools/spotctl/trace_data.h"

namespace spotd::spotctl {

// `title` is plain text.
std::string TracePage(const TraceData& trace, const std::string& title);

}  // namespace spotd::spotctl
