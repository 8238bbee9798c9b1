// The JSON file of a run; tools/spot_eval/README.md documents its fields.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "tools/spot_eval/eval_model.h"
#include "tools/spot_eval/eval_options.h"

namespace spotd::eval {

// Everything but the rows.
nlohmann::json NewReport(const std::string& command, const EvalOptions& options, EvalModel& model);

// Writes the report to options.out, if that is set. A file that cannot be written is an error.
absl::Status WriteReport(const EvalOptions& options, const nlohmann::json& report);

// Rounded for the file: 6 significant digits are more than any figure here is good for.
double Rounded(double value);

}  // namespace spotd::eval
