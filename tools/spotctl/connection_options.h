// The options of every command: which server, how to reach it, how to show replies.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/spotctl/client.h"
#include "tools/spotctl/command_line.h"

namespace spotd::spotctl {

std::vector<OptionSpec> ConnectionOptions();

// Whether "--name" is one of them and takes a value.
bool TakesConnectionValue(std::string_view option);

// Options first, then the environment (SPOTD_ADDRESS, SPOTD_TLS_CA, SPOTD_TLS_CLIENT_CERT,
// SPOTD_TLS_CLIENT_KEY, SPOTD_TOKEN_FILE, SPOTD_TOKEN). Reads the files they name; INVALID_ARGUMENT
// names the one that cannot be read.
absl::StatusOr<ClientOptions> ReadConnectionOptions(const CommandLine& line);

}  // namespace spotd::spotctl
