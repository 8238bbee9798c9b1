// The commands of spot-eval.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "tools/spot_eval/eval_options.h"

namespace spotd::eval {

// ppl, and mass: the same with true masses of every layer's choice.
absl::Status RunAgreement(const std::string& command, const EvalOptions& options);
// needle, track and qa.
absl::Status RunRetrieval(const std::string& command, const EvalOptions& options);

}  // namespace spotd::eval
