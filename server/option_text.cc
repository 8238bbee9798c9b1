// What an OptionTable says about itself: help, reference page, effective values.
#include <sys/stat.h>

#include <sstream>

#include "kernels/core/status.h"
#include "server/option_table.h"

namespace spotd::server {
namespace {

std::string EscapeCell(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

void AppendRow(const OptionTable::Option& option, std::ostringstream* out) {
  std::string type = option.type;
  if (!option.limits.empty() && option.type != "switch") {
    type = option.type == "choice" ? option.limits : Concat(type, ", ", option.limits);
  }
  std::string notes;
  if (option.reloadable) notes += " Read again when it changes.";
  if (option.secret) notes += " Holds secrets.";
  *out << "| `" << option.name << "` | " << EscapeCell(type) << " | "
       << (option.default_value.empty() ? "" : "`" + option.default_value + "`") << " | "
       << EscapeCell(option.help) << notes << " |\n";
}

}  // namespace

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
      if (option.type == "choice") out << " One of " << option.limits << ".";
      if (!option.default_value.empty()) out << " (default " << option.default_value << ")";
      out << "\n";
    }
  }
  return out.str();
}

std::string OptionTable::Reference() const {
  std::ostringstream out;
  for (const Section& section : sections_) {
    out << "\n## " << section.title << "\n\n";
    if (section.flags_only) out << "On the command line only.\n\n";
    out << "| option | takes | default | meaning |\n|---|---|---|---|\n";
    for (const Option& option : section.options) AppendRow(option, &out);
  }
  return out.str();
}

std::string OptionTable::Effective() const {
  std::ostringstream out;
  for (const Section& section : sections_) {
    if (section.flags_only) continue;
    for (const Option& option : section.options) {
      if (option.source.empty()) continue;
      out << option.name << ": \"" << option.value << "\"  # " << option.source << "\n";
    }
  }
  return out.str();
}

std::vector<std::string> OptionTable::SecretWarnings() const {
  std::vector<std::string> warnings;
  for (const Section& section : sections_) {
    for (const Option& option : section.options) {
      struct stat info = {};
      if (!option.secret || option.value.empty()) continue;
      if (stat(option.value.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0) {
        warnings.push_back(
            Concat(option.source, ": every user of this machine may read ", option.value));
      }
    }
  }
  return warnings;
}

}  // namespace spotd::server
