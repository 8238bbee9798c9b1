// Unicode normalisation form C.
#pragma once

#include <string>
#include <string_view>

namespace spotd::text {

// `text` must be valid UTF-8. Linear time, whatever the text.
std::string Nfc(std::string_view text);

}  // namespace spotd::text
