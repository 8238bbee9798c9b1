// Command-line options, declared once and set from flags, environment and a configuration file.
//
// "--name value" and "--name=value"; a switch is also "--name" alone. The environment variable of
// --max_context is SPOTD_MAX_CONTEXT; a configuration file is a flat YAML map of the same names.
// Flags win over the environment, and the environment over the file. Everything unknown or
// malformed is an error that names the option.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace spotd::server {

// A number of bytes, written "2GiB", "512MiB", "64KiB", "1GB" (10^9) or plain.
struct ByteSize {
  size_t bytes = 0;
};

class OptionTable {
 public:
  using Setter = std::function<absl::Status(std::string_view value)>;

  // Starts a group in the help text. Options of a `flags_only` group cannot be set in any other
  // way.
  void Group(std::string title, bool flags_only = false);
  // The target's present value is shown as the default; it must outlive the table.
  void Add(std::string name, std::string help, std::string* target);
  void Add(std::string name, std::string help, bool* target);
  void Add(std::string name, std::string help, int32_t* target, int32_t min, int32_t max);
  void Add(std::string name, std::string help, std::optional<float>* target);
  void Add(std::string name, std::string help, std::optional<int32_t>* target, int32_t min);
  void Add(std::string name, std::string help, ByteSize* target);
  // Durations are written "30s", "500ms" or "2m".
  void Add(std::string name, std::string help, std::chrono::milliseconds* target);
  void Add(std::string name, std::string placeholder, std::string help, Setter set);

  absl::Status ParseFlags(std::span<const char* const> args);
  // `get` is getenv.
  absl::Status ParseEnvironment(const std::function<const char*(const char*)>& get);
  // `text` is the content of the file `path`.
  absl::Status ParseYaml(const std::string& text, const std::string& path);

  std::string Help() const;

 private:
  struct Option {
    std::string name;
    std::string placeholder;  // empty for a switch
    std::string help;
    std::string default_value;
    Setter set;
  };
  struct Section {
    std::string title;
    bool flags_only = false;
    std::vector<Option> options;
  };

  void Add(Option option);
  const Option* Find(std::string_view name, bool flag) const;
  std::string Suggest(std::string_view name) const;
  absl::Status Set(const Option& option, std::string_view value, std::string_view source) const;

  std::vector<Section> sections_;
};

}  // namespace spotd::server
