// spotctl: a client of spotd for people and scripts.

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/status.h"
#include "tools/spotctl/client.h"
#include "tools/spotctl/command_line.h"
#include "tools/spotctl/commands.h"
#include "tools/spotctl/connection_options.h"

namespace spotd::spotctl {

int UsageError(const absl::Status& status) {
  std::fprintf(stderr, "spotctl: %s\n", std::string(status.message()).c_str());
  return kUsageError;
}

namespace {

std::vector<Command> AllCommands() {
  std::vector<Command> all;
  for (const auto& group : {ChatCommands(), InferenceCommands(), SessionCommands(), ModelCommands(),
                            TraceCommands(), WatchCommands()}) {
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

void PrintOptions(const std::vector<OptionSpec>& options) {
  for (const OptionSpec& option : options) {
    const std::string left = Concat("--", option.name, option.value == nullptr ? "" : " ",
                                    option.value == nullptr ? "" : option.value);
    std::printf("  %-26s %s\n", left.c_str(), option.help);
  }
}

int PrintHelp(const std::vector<Command>& commands) {
  std::printf("spotctl: a client of spotd\n\nUsage: spotctl COMMAND [ARGUMENTS] [OPTIONS]\n\n");
  for (const Command& command : commands) {
    const std::string left = Concat(command.name, " ", command.arguments);
    std::printf("  %-32s %s\n", left.c_str(), command.help);
  }
  std::printf("\nOptions of every command; \"spotctl COMMAND --help\" shows the rest:\n");
  PrintOptions(ConnectionOptions());
  std::printf("\nExit codes: 0 done, 1 the call failed, 2 usage.\n");
  return kOk;
}

int PrintCommandHelp(const Command& command) {
  std::printf("Usage: spotctl %s %s [OPTIONS]\n\n%s.\n\n", command.name, command.arguments,
              command.help);
  PrintOptions(command.options);
  PrintOptions(ConnectionOptions());
  return kOk;
}

// Takes the words of a command's name off the arguments, wherever options stand between them.
const Command* TakeCommand(const std::vector<Command>& commands,
                           std::vector<std::string_view>* args) {
  for (const Command& command : commands) {
    std::istringstream words(command.name);
    std::vector<std::string_view> rest = *args;
    bool matches = true;
    for (std::string word; matches && words >> word;) {
      matches = !rest.empty() && rest.front() == word;
      if (matches) rest.erase(rest.begin());
    }
    if (matches) {
      *args = rest;
      return &command;
    }
  }
  return nullptr;
}

int RunCommand(const Command& command, const std::vector<std::string_view>& args) {
  std::vector<OptionSpec> options = ConnectionOptions();
  options.insert(options.end(), command.options.begin(), command.options.end());
  const absl::StatusOr<CommandLine> line = CommandLine::Parse(args, options);
  if (!line.ok()) return UsageError(line.status());
  if (line->Has("help")) return PrintCommandHelp(command);
  const int count = static_cast<int>(line->positional().size());
  if (count < command.min_positional || count > command.max_positional) {
    return UsageError(
        InvalidArgument("usage: spotctl ", command.name, " ", command.arguments, " [OPTIONS]"));
  }
  const absl::StatusOr<ClientOptions> client_options = ReadConnectionOptions(*line);
  if (!client_options.ok()) return UsageError(client_options.status());
  StartInterruptHandler();
  return command.run(Client(*client_options), *line);
}

// Options of every command may also stand before its name: moves them behind it.
void MoveLeadingOptionsBack(std::vector<std::string_view>* args) {
  size_t count = 0;
  while (count < args->size() && (*args)[count].substr(0, 2) == "--") {
    count += TakesConnectionValue((*args)[count]) ? 2 : 1;
  }
  count = std::min(count, args->size());
  std::rotate(args->begin(), args->begin() + static_cast<std::ptrdiff_t>(count), args->end());
}

int Main(std::vector<std::string_view> args) {
  const std::vector<Command> commands = AllCommands();
  if (args.empty()) {
    PrintHelp(commands);
    return kUsageError;
  }
  if (args[0] == "--help" || args[0] == "help") return PrintHelp(commands);
  MoveLeadingOptionsBack(&args);
  const std::string first(args[0]);
  const Command* command = TakeCommand(commands, &args);
  if (command == nullptr) {
    return UsageError(InvalidArgument("unknown command \"", first, "\"; see spotctl --help"));
  }
  return RunCommand(*command, args);
}

}  // namespace
}  // namespace spotd::spotctl

int main(int argc, char** argv) {
  return spotd::spotctl::Main(std::vector<std::string_view>(argv + 1, argv + argc));
}
