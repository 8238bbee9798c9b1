// The command line of one subcommand: options anywhere, the rest positional; "--" ends the options.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spotd::spotctl {

struct OptionSpec {
  const char* name;   // without dashes
  const char* value;  // what the help calls its value; null for a switch
  const char* help;
};

// INVALID_ARGUMENT unless all of `text` is an integer that fits.
absl::StatusOr<int32_t> ParseInt(const std::string& text);

class CommandLine {
 public:
  // INVALID_ARGUMENT for an unknown option or a missing value.
  static absl::StatusOr<CommandLine> Parse(std::span<const std::string_view> args,
                                           std::span<const OptionSpec> options);

  const std::vector<std::string>& positional() const { return positional_; }
  bool Has(const std::string& name) const { return options_.contains(name); }
  std::optional<std::string> Get(const std::string& name) const;
  // Nothing where the option is absent; INVALID_ARGUMENT where it is not a number.
  absl::StatusOr<std::optional<int64_t>> GetInt(const std::string& name) const;
  absl::StatusOr<std::optional<float>> GetFloat(const std::string& name) const;
  // All values of an option that may be given several times.
  std::vector<std::string> GetAll(const std::string& name) const;

 private:
  std::vector<std::string> positional_;
  std::multimap<std::string, std::string> options_;
};

}  // namespace spotd::spotctl
