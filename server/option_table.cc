#include "server/option_table.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::server {
namespace {

constexpr std::string_view kPrefix = "SPOTD_";

// Edits that turn `a` into `b`.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

std::string EnvironmentName(std::string_view option) {
  std::string name(kPrefix);
  for (char c : option) name += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

std::string JoinChoices(const std::vector<std::string>& choices) {
  std::string text;
  for (const std::string& choice : choices) text += (text.empty() ? "" : ", ") + choice;
  return text;
}

// `where` says which flag, variable or line of a file the value comes from.
absl::Status Set(OptionTable::Option* option, std::string_view value, const std::string& where) {
  const absl::Status status = option->set(value);
  if (!status.ok()) return InvalidArgument(where, ": ", status.message());
  option->value = std::string(value);
  option->source = where;
  return absl::OkStatus();
}

}  // namespace

void OptionTable::Group(std::string title, bool flags_only) {
  sections_.push_back({std::move(title), flags_only, {}});
}

OptionTable::Option& OptionTable::Add(Option option) {
  std::vector<Option>& options = sections_.back().options;
  options.push_back(std::move(option));
  return options.back();
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help, std::string* target) {
  return Add({.name = std::move(name),
              .type = "text",
              .placeholder = "TEXT",
              .limits = "",
              .help = std::move(help),
              .default_value = *target,
              .set =
                  [target](std::string_view value) {
                    *target = std::string(value);
                    return absl::OkStatus();
                  },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::AddFile(std::string name, std::string help, std::string* target) {
  Option& option = Add(std::move(name), std::move(help), target);
  option.type = "path";
  option.placeholder = "PATH";
  return option;
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help, bool* target) {
  return Add({.name = std::move(name),
              .type = "switch",
              .placeholder = "",
              .limits = "true, false",
              .help = std::move(help),
              .default_value = *target ? "true" : "false",
              .set =
                  [target](std::string_view value) {
                    if (value != "true" && value != "false") {
                      return InvalidArgument("\"", value, "\" is neither true nor false");
                    }
                    *target = value == "true";
                    return absl::OkStatus();
                  },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help, int32_t* target,
                                      int32_t min, int32_t max) {
  return Add({.name = std::move(name),
              .type = "integer",
              .placeholder = "N",
              .limits = FormatBounds(min, max),
              .help = std::move(help),
              .default_value = Concat(*target),
              .set = [=](std::string_view value) { return ParseInteger(value, min, max, target); },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help, ByteSize* target,
                                      ByteSize min, ByteSize max) {
  return Add({.name = std::move(name),
              .type = "size",
              .placeholder = "SIZE",
              .limits = Concat(FormatByteSize(min), " to ", FormatByteSize(max)),
              .help = std::move(help),
              .default_value = FormatByteSize(*target),
              .set = [=](std::string_view value) { return ParseByteSize(value, min, max, target); },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help,
                                      std::chrono::milliseconds* target,
                                      std::chrono::milliseconds min,
                                      std::chrono::milliseconds max) {
  return Add({.name = std::move(name),
              .type = "duration",
              .placeholder = "TIME",
              .limits = Concat(FormatDuration(min), " to ", FormatDuration(max)),
              .help = std::move(help),
              .default_value = FormatDuration(*target),
              .set = [=](std::string_view value) { return ParseDuration(value, min, max, target); },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help,
                                      std::optional<float>* target, float usual, float min,
                                      float max) {
  return Add({.name = std::move(name),
              .type = "number",
              .placeholder = "X",
              .limits = Concat(min, " to ", max),
              .help = std::move(help),
              .default_value = Concat(usual),
              .set =
                  [=](std::string_view value) {
                    float number = 0;
                    SPOTD_RETURN_IF_ERROR(ParseFraction(value, min, max, &number));
                    *target = number;
                    return absl::OkStatus();
                  },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::Add(std::string name, std::string help,
                                      std::optional<int32_t>* target, int32_t usual, int32_t min,
                                      int32_t max) {
  return Add({.name = std::move(name),
              .type = "integer",
              .placeholder = "N",
              .limits = FormatBounds(min, max),
              .help = std::move(help),
              .default_value = Concat(usual),
              .set =
                  [=](std::string_view value) {
                    int32_t number = 0;
                    SPOTD_RETURN_IF_ERROR(ParseInteger(value, min, max, &number));
                    *target = number;
                    return absl::OkStatus();
                  },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::AddChoice(std::string name, std::string help,
                                            std::vector<std::string> choices,
                                            std::string default_value, Setter set) {
  std::string limits = JoinChoices(choices);
  return Add({.name = std::move(name),
              .type = "choice",
              .placeholder = "NAME",
              .limits = std::move(limits),
              .help = std::move(help),
              .default_value = std::move(default_value),
              .set = [choices, set = std::move(set)](std::string_view value) -> absl::Status {
                if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
                  return InvalidArgument("\"", value, "\" is none of ", JoinChoices(choices));
                }
                return set(value);
              },
              .value = "",
              .source = ""});
}

OptionTable::Option& OptionTable::AddChoice(std::string name, std::string help,
                                            std::vector<std::string> choices, std::string* target) {
  return AddChoice(std::move(name), std::move(help), std::move(choices), *target,
                   [target](std::string_view value) {
                     *target = std::string(value);
                     return absl::OkStatus();
                   });
}

OptionTable::Option* OptionTable::Find(std::string_view name, bool flag) {
  for (Section& section : sections_) {
    if (section.flags_only && !flag) continue;
    for (Option& option : section.options) {
      if (option.name == name) return &option;
    }
  }
  return nullptr;
}

std::string OptionTable::Nearest(std::string_view name) const {
  size_t best = 3;  // farther than two edits is another word
  std::string nearest;
  for (const Section& section : sections_) {
    for (const Option& option : section.options) {
      const std::pair<size_t, size_t> sizes = std::minmax(name.size(), option.name.size());
      if (sizes.second - sizes.first >= best) continue;
      const size_t distance = EditDistance(name, option.name);
      if (distance < best) {
        best = distance;
        nearest = option.name;
      }
    }
  }
  return nearest;
}

std::string OptionTable::Suggest(std::string_view name) const {
  const std::string nearest = Nearest(name);
  return nearest.empty() ? "; see --help" : Concat("; did you mean --", nearest, "?");
}

absl::Status OptionTable::ParseFlags(std::span<const char* const> args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string_view arg = args[i];
    if (arg.substr(0, 2) != "--") {
      return InvalidArgument("unexpected argument \"", arg, "\"; see --help");
    }
    const size_t equals = arg.find('=');
    const std::string_view name = arg.substr(2, equals == arg.npos ? arg.npos : equals - 2);
    Option* option = Find(name, true);
    if (option == nullptr) return InvalidArgument("unknown flag --", name, Suggest(name));
    std::string_view value = "true";
    if (equals != arg.npos) {
      value = arg.substr(equals + 1);
    } else if (!option->placeholder.empty()) {
      if (++i == args.size()) return InvalidArgument("--", name, " needs a value");
      value = args[i];
    }
    SPOTD_RETURN_IF_ERROR(Set(option, value, Concat("--", name)));
  }
  return absl::OkStatus();
}

absl::Status OptionTable::ParseEnvironment(const std::function<const char*(const char*)>& get) {
  for (Section& section : sections_) {
    if (section.flags_only) continue;
    for (Option& option : section.options) {
      const std::string variable = EnvironmentName(option.name);
      if (const char* value = get(variable.c_str()); value != nullptr) {
        SPOTD_RETURN_IF_ERROR(Set(&option, value, variable));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status OptionTable::ParseYaml(const std::string& text, const std::string& path) {
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return absl::OkStatus();
    if (!root.IsMap()) return InvalidArgument(path, ": not a map of option names to values");
    std::set<std::string> seen;
    for (const auto& entry : root) {
      const std::string where = Concat(path, ":", entry.first.Mark().line + 1);
      if (!entry.first.IsScalar()) return InvalidArgument(where, ": a key is not a plain name");
      const std::string& name = entry.first.Scalar();
      Option* option = Find(name, false);
      if (option == nullptr) return InvalidArgument(where, ": unknown key ", name, Suggest(name));
      if (!seen.insert(name).second) return InvalidArgument(where, ": ", name, " is set twice");
      if (!entry.second.IsScalar()) {
        return InvalidArgument(where, ": ", name, ": not a plain value");
      }
      SPOTD_RETURN_IF_ERROR(Set(option, entry.second.Scalar(), Concat(where, ": ", name)));
    }
  } catch (const YAML::Exception& error) {
    return InvalidArgument(path, ": ", error.what());
  }
  return absl::OkStatus();
}

absl::Status OptionTable::CheckEnvironmentName(std::string_view variable) const {
  variable = variable.substr(0, variable.find('='));
  if (variable.substr(0, kPrefix.size()) != kPrefix) return absl::OkStatus();
  std::string name;
  for (char c : variable.substr(kPrefix.size())) {
    name += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  }
  const std::string nearest = Nearest(name);
  if (nearest.empty() || nearest == name) return absl::OkStatus();
  return InvalidArgument("unknown environment variable ", variable, "; did you mean ",
                         EnvironmentName(nearest), "?");
}

}  // namespace spotd::server
