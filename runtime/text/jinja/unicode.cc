#include "runtime/text/jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>

#include "runtime/text/utf8.h"

namespace spotd::text::jinja {
namespace {

utf8proc_category_t Category(uint32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}
uint32_t UpperOf(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_toupper(static_cast<int32_t>(c)));
}
uint32_t LowerOf(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<int32_t>(c)));
}
uint32_t TitleOf(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_totitle(static_cast<int32_t>(c)));
}

bool IsStripped(uint32_t character, const std::vector<uint32_t>& set, bool white_space) {
  if (white_space) return IsSpace(character);
  return std::find(set.begin(), set.end(), character) != set.end();
}

template <typename Map>
std::string MapCharacters(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    AppendUtf8(map(DecodeUtf8(text.data() + at, &length)), &out);
  }
  return out;
}

}  // namespace

bool IsSpace(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  const auto category = Category(c);
  return c == 0x85 || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

bool IsLetter(uint32_t character) {
  const auto category = Category(character);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDigit(uint32_t character) {
  return Category(character) == UTF8PROC_CATEGORY_ND;
}

bool IsPrintable(uint32_t character) {
  if (character == ' ') return true;
  const auto category = Category(character);
  return category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS;
}

std::vector<uint32_t> Characters(std::string_view text) {
  std::vector<uint32_t> characters;
  characters.reserve(text.size());
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    characters.push_back(DecodeUtf8(text.data() + at, &length));
  }
  return characters;
}

std::string FromCharacters(const std::vector<uint32_t>& characters) {
  std::string text;
  for (const uint32_t character : characters) AppendUtf8(character, &text);
  return text;
}

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

std::string_view StripLeft(std::string_view text, const std::string* set) {
  const auto characters = set == nullptr ? std::vector<uint32_t>() : Characters(*set);
  size_t length = 0;
  while (!text.empty() &&
         IsStripped(DecodeUtf8(text.data(), &length), characters, set == nullptr)) {
    text.remove_prefix(length);
  }
  return text;
}

std::string_view StripRight(std::string_view text, const std::string* set) {
  const auto characters = set == nullptr ? std::vector<uint32_t>() : Characters(*set);
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while ((static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t length = 0;
    if (!IsStripped(DecodeUtf8(text.data() + begin, &length), characters, set == nullptr)) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

std::string Upper(std::string_view text) {
  return MapCharacters(text, UpperOf);
}
std::string Lower(std::string_view text) {
  return MapCharacters(text, LowerOf);
}

std::string Capitalize(std::string_view text) {
  bool first = true;
  return MapCharacters(text, [&first](uint32_t character) {
    const uint32_t mapped = first ? TitleOf(character) : LowerOf(character);
    first = false;
    return mapped;
  });
}

std::string Title(std::string_view text) {
  bool in_word = false;
  return MapCharacters(text, [&in_word](uint32_t character) {
    const uint32_t mapped = in_word ? LowerOf(character) : TitleOf(character);
    in_word = IsLetter(character);
    return mapped;
  });
}

std::string TitleFilter(std::string_view text) {
  bool in_word = false;
  return MapCharacters(text, [&in_word](uint32_t character) {
    const uint32_t mapped = in_word ? LowerOf(character) : UpperOf(character);
    constexpr std::string_view kBreaks = "-({[<";
    const bool breaks =
        IsSpace(character) ||
        (character < 0x80 && kBreaks.find(static_cast<char>(character)) != std::string_view::npos);
    in_word = !breaks;
    return mapped;
  });
}

}  // namespace spotd::text::jinja
