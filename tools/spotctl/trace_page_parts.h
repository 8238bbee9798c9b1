// The fixed parts of the page that TracePage writes: style and markup, and the program that draws.
#pragma once

namespace spotd::spotctl {

extern const char kTracePageHead[];
extern const char kTracePageScript[];

}  // namespace spotd::spotctl
