// Characters newer than the installed Unicode tables.
//
// The reference splits text with tables of Unicode 16 (numbers in its Digits step: 17), Debian's
// PCRE2 knows Unicode 14. A letter assigned since then must still count as a letter, or ids would
// differ. So expressions are run on a copy of the text in which each such character is replaced by
// an old one of its category and its length in UTF-8; the offsets found hold for the text itself.
#pragma once

#include <string>
#include <string_view>

namespace spotd::text {

// One character that is a number to the reference's Digits step (numbers of Unicode 17 included).
inline constexpr char kDigitPattern[] = R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";

// The copy; empty when `text` (valid UTF-8) holds no such character.
std::string WithOldCharacters(std::string_view text);

}  // namespace spotd::text
