#include "server/option_table.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::server {
namespace {

template <typename T>
bool ParseNumber(std::string_view text, T* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

// "2GiB" -> 2 and "GiB".
template <typename T>
bool SplitUnit(std::string_view text, T* number, std::string_view* unit) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  *unit = text.substr(end - text.data());
  return error == std::errc();
}

absl::Status ParseByteSize(std::string_view text, ByteSize* out) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},          {"B", 1},
      {"KiB", 1024.0},  {"MiB", 1024.0 * 1024},
      {"GiB", 1 << 30}, {"TiB", 1ull << 40},
      {"KB", 1e3},      {"MB", 1e6},
      {"GB", 1e9},      {"TB", 1e12}};
  double number = 0;
  std::string_view unit;
  if (SplitUnit(text, &number, &unit) && std::isfinite(number) && number >= 0) {
    for (const auto& [name, factor] : kUnits) {
      if (unit != name) continue;
      if (number * factor >= 1e18) break;
      out->bytes = static_cast<size_t>(number * factor);
      return absl::OkStatus();
    }
  }
  return InvalidArgument("\"", text, "\" is not a size such as 2GiB or 512MiB");
}

absl::Status ParseDuration(std::string_view text, std::chrono::milliseconds* out) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}};
  double number = 0;
  std::string_view unit;
  if (SplitUnit(text, &number, &unit) && std::isfinite(number) && number >= 0) {
    for (const auto& [name, factor] : kUnits) {
      if (unit != name || number * factor > 1e12) continue;
      *out = std::chrono::milliseconds(static_cast<int64_t>(number * factor));
      return absl::OkStatus();
    }
  }
  return InvalidArgument("\"", text, "\" is not a duration such as 30s, 500ms or 2m");
}

std::string FormatByteSize(ByteSize size) {
  for (const auto& [shift, unit] : {std::pair{30, "GiB"}, {20, "MiB"}, {10, "KiB"}}) {
    const size_t one = size_t{1} << shift;
    if (size.bytes >= one && size.bytes % one == 0) return Concat(size.bytes >> shift, unit);
  }
  return Concat(size.bytes);
}

std::string FormatDuration(std::chrono::milliseconds duration) {
  const int64_t ms = duration.count();
  return ms % 1000 == 0 ? Concat(ms / 1000, "s") : Concat(ms, "ms");
}

absl::Status ParseInteger(std::string_view text, int32_t min, int32_t max, int32_t* out) {
  if (ParseNumber(text, out) && *out >= min && *out <= max) return absl::OkStatus();
  if (max == std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("\"", text, "\" is not an integer of at least ", min);
  }
  return InvalidArgument("\"", text, "\" is not an integer from ", min, " to ", max);
}

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
  std::string name = "SPOTD_";
  for (char c : option) name += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

}  // namespace

void OptionTable::Group(std::string title, bool flags_only) {
  sections_.push_back({std::move(title), flags_only, {}});
}

void OptionTable::Add(Option option) {
  sections_.back().options.push_back(std::move(option));
}

void OptionTable::Add(std::string name, std::string placeholder, std::string help, Setter set) {
  Add({std::move(name), std::move(placeholder), std::move(help), "", std::move(set)});
}

void OptionTable::Add(std::string name, std::string help, std::string* target) {
  Add({std::move(name), "TEXT", std::move(help), *target, [target](std::string_view value) {
         *target = std::string(value);
         return absl::OkStatus();
       }});
}

void OptionTable::Add(std::string name, std::string help, bool* target) {
  Add({std::move(name), "", std::move(help), *target ? "true" : "false",
       [target](std::string_view value) {
         if (value != "true" && value != "false") {
           return InvalidArgument("\"", value, "\" is neither true nor false");
         }
         *target = value == "true";
         return absl::OkStatus();
       }});
}

void OptionTable::Add(std::string name, std::string help, int32_t* target, int32_t min,
                      int32_t max) {
  Add({std::move(name), "N", std::move(help), Concat(*target),
       [=](std::string_view value) { return ParseInteger(value, min, max, target); }});
}

void OptionTable::Add(std::string name, std::string help, std::optional<int32_t>* target,
                      int32_t min) {
  Add({std::move(name), "N", std::move(help), "", [=](std::string_view value) {
         int32_t number = 0;
         SPOTD_RETURN_IF_ERROR(
             ParseInteger(value, min, std::numeric_limits<int32_t>::max(), &number));
         *target = number;
         return absl::OkStatus();
       }});
}

void OptionTable::Add(std::string name, std::string help, std::optional<float>* target) {
  Add({std::move(name), "X", std::move(help), "", [target](std::string_view value) {
         float number = 0;
         if (!ParseNumber(value, &number)) {
           return InvalidArgument("\"", value, "\" is not a number");
         }
         *target = number;
         return absl::OkStatus();
       }});
}

void OptionTable::Add(std::string name, std::string help, ByteSize* target) {
  Add({std::move(name), "SIZE", std::move(help), FormatByteSize(*target),
       [target](std::string_view value) { return ParseByteSize(value, target); }});
}

void OptionTable::Add(std::string name, std::string help, std::chrono::milliseconds* target) {
  Add({std::move(name), "TIME", std::move(help), FormatDuration(*target),
       [target](std::string_view value) { return ParseDuration(value, target); }});
}

const OptionTable::Option* OptionTable::Find(std::string_view name, bool flag) const {
  for (const Section& section : sections_) {
    if (section.flags_only && !flag) continue;
    for (const Option& option : section.options) {
      if (option.name == name) return &option;
    }
  }
  return nullptr;
}

std::string OptionTable::Suggest(std::string_view name) const {
  size_t best = 3;  // farther than two edits is another word
  std::string suggestion;
  for (const Section& section : sections_) {
    for (const Option& option : section.options) {
      const size_t distance = EditDistance(name, option.name);
      if (distance < best) {
        best = distance;
        suggestion = Concat("; did you mean --", option.name, "?");
      }
    }
  }
  return suggestion.empty() ? "; see --help" : suggestion;
}

absl::Status OptionTable::Set(const Option& option, std::string_view value,
                              std::string_view source) const {
  const absl::Status status = option.set(value);
  if (status.ok()) return status;
  return InvalidArgument(source, ": ", status.message());
}

absl::Status OptionTable::ParseFlags(std::span<const char* const> args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string_view arg = args[i];
    if (arg.substr(0, 2) != "--") {
      return InvalidArgument("unexpected argument \"", arg, "\"; see --help");
    }
    const size_t equals = arg.find('=');
    const std::string_view name = arg.substr(2, equals == arg.npos ? arg.npos : equals - 2);
    const Option* option = Find(name, true);
    if (option == nullptr) return InvalidArgument("unknown flag --", name, Suggest(name));
    std::string_view value = "true";
    if (equals != arg.npos) {
      value = arg.substr(equals + 1);
    } else if (!option->placeholder.empty()) {
      if (++i == args.size()) return InvalidArgument("--", name, " needs a value");
      value = args[i];
    }
    SPOTD_RETURN_IF_ERROR(Set(*option, value, Concat("--", name)));
  }
  return absl::OkStatus();
}

absl::Status OptionTable::ParseEnvironment(const std::function<const char*(const char*)>& get) {
  for (const Section& section : sections_) {
    if (section.flags_only) continue;
    for (const Option& option : section.options) {
      const std::string variable = EnvironmentName(option.name);
      if (const char* value = get(variable.c_str()); value != nullptr) {
        SPOTD_RETURN_IF_ERROR(Set(option, value, variable));
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
    for (const auto& entry : root) {
      const std::string name = entry.first.as<std::string>();
      const Option* option = Find(name, false);
      if (option == nullptr) return InvalidArgument(path, ": unknown key ", name, Suggest(name));
      if (!entry.second.IsScalar()) return InvalidArgument(path, ": ", name, ": not a plain value");
      SPOTD_RETURN_IF_ERROR(Set(*option, entry.second.as<std::string>(), Concat(path, ": ", name)));
    }
  } catch (const YAML::Exception& error) {
    return InvalidArgument(path, ": ", error.what());
  }
  return absl::OkStatus();
}

std::string OptionTable::Help() const {
  constexpr size_t kColumn = 30;
  std::ostringstream out;
  for (const Section& section : sections_) {
    out << "\n" << section.title << "\n";
    for (const Option& option : section.options) {
      std::string left = "  --" + option.name;
      if (!option.placeholder.empty()) left += " " + option.placeholder;
      left += left.size() < kColumn ? std::string(kColumn - left.size(), ' ')
                                    : "\n" + std::string(kColumn, ' ');
      out << left << option.help;
      if (!option.default_value.empty()) out << " (default " << option.default_value << ")";
      out << "\n";
    }
  }
  return out.str();
}

}  // namespace spotd::server
