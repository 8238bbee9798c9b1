#include "tools/spotctl/command_line.h"

#include <algorithm>

namespace spotd::spotctl {
absl::StatusOr<CommandLine> CommandLine::Parse(std::span<const std::string_view> args,
                                               std::span<const OptionSpec> options) {
  CommandLine line;
  bool options_ended = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string_view arg = args[i];
    if (options_ended || arg.substr(0, 2) != "--") {
      line.positional_.emplace_back(arg);
      continue;
    }
    if (arg == "--") {
      options_ended = true;
      continue;
    }
    const size_t equals = arg.find('=');
    const std::string name(arg.substr(2, equals == arg.npos ? arg.npos : equals - 2));
    const auto spec = std::find_if(options.begin(), options.end(),
                                   [&](const OptionSpec& option) { return name == option.name; });
    if (spec == options.end()) return InvalidArgument("unknown option --", name);
    std::string value;
    if (spec->value != nullptr) {
      if (equals == arg.npos && ++i == args.size()) {
        return InvalidArgument("--", name, " needs a value");
      }
      value = equals == arg.npos ? args[i] : arg.substr(equals + 1);
    } else if (equals != arg.npos) {
      return InvalidArgument("--", name, " takes no value");
    }
    line.options_.emplace(name, std::move(value));
  }
  return line;
}

std::optional<std::string> CommandLine::Get(const std::string& name) const {
  const auto [begin, end] = options_.equal_range(name);
  if (begin == end) return std::nullopt;
  return std::prev(end)->second;
}

absl::StatusOr<std::optional<float>> CommandLine::GetFloat(const std::string& name) const {
  const std::optional<std::string> text = Get(name);
  if (!text.has_value()) return std::optional<float>();
  float number = 0;
  const char* end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, number);
  if (error == std::errc() && stop == end) return std::optional<float>(number);
  return InvalidArgument("--", name, ": \"", *text, "\" is not a number");
}

std::vector<std::string> CommandLine::GetAll(const std::string& name) const {
  std::vector<std::string> values;
  const auto [begin, end] = options_.equal_range(name);
  for (auto it = begin; it != end; ++it) values.push_back(it->second);
  return values;
}

}  // namespace spotd::spotctl
