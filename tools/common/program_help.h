// What --help of a program with flags says.
#pragma once

#include <string>
#include <string_view>

namespace spotd::tools {

// `usage`, and the flags that are defined in sources whose path holds `folder`
// ("tools/spot_eval/"). To be called before the flags are parsed, once.
void SetProgramHelp(std::string_view usage, const std::string& folder);

}  // namespace spotd::tools
