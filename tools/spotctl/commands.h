// The subcommands of spotctl. Each returns the process's exit code.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tools/spotctl/client.h"
#include "tools/spotctl/command_line.h"

namespace spotd::spotctl {

struct Command {
  const char* name;       // "sessions list"
  const char* arguments;  // "SESSION [TOKENS]"; in the help
  const char* help;
  int min_positional;
  int max_positional;
  std::vector<OptionSpec> options;
  int (*run)(const Client& client, const CommandLine& line);
};

std::vector<Command> SessionCommands();
std::vector<Command> InferenceCommands();
std::vector<Command> ChatCommands();
std::vector<Command> ModelCommands();
std::vector<Command> TraceCommands();
std::vector<Command> WatchCommands();

// Shows a mistake in the command line; kUsageError.
int UsageError(const absl::Status& status);

}  // namespace spotd::spotctl
