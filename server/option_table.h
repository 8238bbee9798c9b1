// The schema of everything an operator can set: each option declared once, with name, type, bounds,
// default, meaning and what may change while the server runs. Flags, environment, configuration
// file, help text and reference page all come from it.
//
// "--name value" and "--name=value"; a switch is also "--name" alone. The environment variable of
// --max_context is SPOTD_MAX_CONTEXT; a configuration file is a flat YAML map of the same names.
// The caller parses in the order of rank: what is parsed later wins. Everything unknown, malformed
// or out of bounds is an INVALID_ARGUMENT that says where it stands, what it is and what is
// allowed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/option_values.h"

namespace spotd::server {

class OptionTable {
 public:
  using Setter = std::function<absl::Status(std::string_view value)>;

  struct Option {
    std::string name;
    std::string type;         // "text", "integer", "size", ...
    std::string placeholder;  // of the help text; empty for a switch
    std::string limits;       // in words; empty: none
    std::string help;
    std::string default_value;  // empty: not set
    bool reloadable = false;    // the file it names is read again when it changes
    bool secret = false;        // the file it names holds secrets
    Setter set;
    // What was set last, and where: "" while it has its default.
    std::string value;
    std::string source;

    Option& Reloadable() {
      reloadable = true;
      return *this;
    }
    Option& Secret() {
      secret = true;
      return *this;
    }
  };

  // Starts a group. Options of a `flags_only` group cannot be set in any other way.
  void Group(std::string title, bool flags_only = false);

  // The target's present value is shown as the default; it must outlive the table. The option that
  // is returned may be described further until the next one is added.
  Option& Add(std::string name, std::string help, std::string* target);
  Option& AddFile(std::string name, std::string help, std::string* target);
  Option& Add(std::string name, std::string help, bool* target);
  Option& Add(std::string name, std::string help, int32_t* target, int32_t min,
              int32_t max = std::numeric_limits<int32_t>::max());
  Option& Add(std::string name, std::string help, ByteSize* target, ByteSize min = {},
              ByteSize max = {size_t{1} << 50});
  Option& Add(std::string name, std::string help, std::chrono::milliseconds* target,
              std::chrono::milliseconds min = {},
              std::chrono::milliseconds max = std::chrono::hours(24));
  // Unset unless given; `usual` is what the server then uses.
  Option& Add(std::string name, std::string help, std::optional<float>* target, float usual,
              float min, float max);
  Option& Add(std::string name, std::string help, std::optional<int32_t>* target, int32_t usual,
              int32_t min, int32_t max = std::numeric_limits<int32_t>::max());
  // One of `choices`; `set` sees nothing else.
  Option& AddChoice(std::string name, std::string help, std::vector<std::string> choices,
                    std::string default_value, Setter set);
  Option& AddChoice(std::string name, std::string help, std::vector<std::string> choices,
                    std::string* target);

  absl::Status ParseFlags(std::span<const char* const> args);
  // `get` is getenv.
  absl::Status ParseEnvironment(const std::function<const char*(const char*)>& get);
  // `text` is the content of the file `path`.
  absl::Status ParseYaml(const std::string& text, const std::string& path);
  // Refuses a variable ("NAME=value" or "NAME") that looks like a misspelt option. Others are none
  // of our business: an orchestrator sets SPOTD_SERVICE_HOST and the like for a service of our
  // name.
  absl::Status CheckEnvironmentName(std::string_view variable) const;

  // What --help prints.
  std::string Help() const;
  // The options as Markdown tables, one a group.
  std::string Reference() const;
  // What is set and by whom, one option a line.
  std::string Effective() const;
  // Files of secrets that other users of the machine may read, one warning each.
  std::vector<std::string> SecretWarnings() const;

 private:
  struct Section {
    std::string title;
    bool flags_only = false;
    std::vector<Option> options;
  };

  Option& Add(Option option);
  Option* Find(std::string_view name, bool flag);
  // The option within two edits of `name`, or "".
  std::string Nearest(std::string_view name) const;
  std::string Suggest(std::string_view name) const;

  std::vector<Section> sections_;
};

}  // namespace spotd::server
