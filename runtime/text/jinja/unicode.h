// Python's str operations on UTF-8 text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spotd::text::jinja {

// All text is valid UTF-8: template source and messages are checked when they come in.

bool IsSpace(uint32_t character);   // str.isspace
bool IsLetter(uint32_t character);  // str.isalpha
bool IsDigit(uint32_t character);   // decimal digits
bool IsPrintable(uint32_t character);

std::vector<uint32_t> Characters(std::string_view text);
std::string FromCharacters(const std::vector<uint32_t>& characters);
size_t CountCharacters(std::string_view text);

// Without the characters of `set` (white space when it is null) at the ends.
std::string_view StripLeft(std::string_view text, const std::string* set = nullptr);
std::string_view StripRight(std::string_view text, const std::string* set = nullptr);
inline std::string_view Strip(std::string_view text, const std::string* set = nullptr) {
  return StripLeft(StripRight(text, set), set);
}

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);  // first character upper, the rest lower
std::string Title(std::string_view text);       // as str.title
std::string TitleFilter(
    std::string_view text);  // as Jinja's filter: words begin after white space and -({[<

}  // namespace spotd::text::jinja
