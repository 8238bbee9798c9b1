#include "tools/common/program_help.h"

#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"

namespace spotd::tools {

void SetProgramHelp(std::string_view usage, const std::string& folder) {
  absl::SetProgramUsageMessage(std::string(usage));
  const auto own = [folder](absl::string_view file) {
    return std::string_view(file.data(), file.size()).find(folder) != std::string_view::npos;
  };
  // By default the library looks for a source named like the program.
  absl::FlagsUsageConfig config;
  config.contains_help_flags = own;
  config.contains_helpshort_flags = own;
  config.contains_helppackage_flags = own;
  absl::SetFlagsUsageConfig(std::move(config));
}

}  // namespace spotd::tools
