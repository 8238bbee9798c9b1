// Options that several commands share: sampling, policy, and where input comes from.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "spotd/v1/inference.pb.h"
#include "tools/spotctl/command_line.h"

namespace spotd::spotctl {

std::vector<OptionSpec> SamplingOptions();
std::vector<OptionSpec> PolicyOptions();
std::vector<OptionSpec> InputOptions();

absl::Status FillSampling(const CommandLine& line, v1::Sampling* sampling);
// `policy` gives the message to fill; it is called only when the command line says something about
// the policy.
absl::Status FillPolicy(const CommandLine& line, const std::function<v1::Policy*()>& policy);

// What --text, --message, --file or standard input ("--file -") hold. INVALID_ARGUMENT unless
// exactly one is given; NOT_FOUND when the file cannot be read.
absl::StatusOr<v1::Input> ReadInput(const CommandLine& line);

}  // namespace spotd::spotctl
