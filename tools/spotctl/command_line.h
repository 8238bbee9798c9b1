// The command line of one subcommand: options anywhere, the rest positional; "--" ends the options.
#pragma once

#include <charconv>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/status.h"

namespace spotd::spotctl {

struct OptionSpec {
  const char* name;   // without dashes
  const char* value;  // what the help calls its value; null for a switch
  const char* help;
};

class CommandLine {
 public:
  // INVALID_ARGUMENT for an unknown option or a missing value.
  static absl::StatusOr<CommandLine> Parse(std::span<const std::string_view> args,
                                           std::span<const OptionSpec> options);

  const std::vector<std::string>& positional() const { return positional_; }
  bool Has(const std::string& name) const { return options_.contains(name); }
  std::optional<std::string> Get(const std::string& name) const;
  // Nothing where the option is absent; INVALID_ARGUMENT where it is not a number, or, of GetInt,
  // not a whole one that T holds.
  template <typename T>
  absl::StatusOr<std::optional<T>> GetInt(const std::string& name) const;
  absl::StatusOr<std::optional<float>> GetFloat(const std::string& name) const;
  // All values of an option that may be given several times.
  std::vector<std::string> GetAll(const std::string& name) const;

 private:
  std::vector<std::string> positional_;
  std::multimap<std::string, std::string> options_;
};

// INVALID_ARGUMENT unless all of `text` is a whole number that T holds.
template <typename T>
absl::StatusOr<T> ParseInt(const std::string& text) {
  T number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end) return number;
  return InvalidArgument("\"", text, "\" is not a whole number from ",
                         std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max());
}

template <typename T>
absl::StatusOr<std::optional<T>> CommandLine::GetInt(const std::string& name) const {
  const std::optional<std::string> text = Get(name);
  if (!text.has_value()) return std::optional<T>();
  const absl::StatusOr<T> number = ParseInt<T>(*text);
  if (!number.ok()) return InvalidArgument("--", name, ": ", number.status().message());
  return std::optional<T>(*number);
}

}  // namespace spotd::spotctl
