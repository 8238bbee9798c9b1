// Runs one Generate call and shows it while it streams.
#pragma once

#include "spotd/v1/inference.pb.h"
#include "tools/spotctl/client.h"

namespace spotd::spotctl {

struct GenerationOutcome {
  int exit_code = kOk;
  bool cancelled = false;  // by Ctrl-C
};

// Text goes to stdout as it arrives, progress and the account to stderr; with --json each message
// is a line of stdout.
GenerationOutcome StreamGeneration(const Client& client, const v1::GenerateRequest& request);

}  // namespace spotd::spotctl
