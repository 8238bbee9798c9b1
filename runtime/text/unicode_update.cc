#include "runtime/text/unicode_update.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "runtime/text/unicode_update_table.h"
#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

// The character to show to an expression instead of `character`.
uint32_t OldCharacter(uint32_t character) {
  const auto* range = std::lower_bound(
      std::begin(kCategoryUpdates), std::end(kCategoryUpdates), character,
      [](const CategoryUpdate& update, uint32_t value) { return update.last < value; });
  const bool inside = range != std::end(kCategoryUpdates) && range->first <= character;
  return inside ? range->old_character : character;
}

}  // namespace

std::string WithOldCharacters(std::string_view text) {
  std::string copy;
  size_t copied = 0;
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const auto lead = static_cast<uint8_t>(text[at]);
    if (lead < 0xE0) {  // the first change is above U+07FF
      length = lead < 0x80 ? 1 : 2;
      continue;
    }
    const uint32_t character = DecodeUtf8(text.data() + at, &length);
    const uint32_t old = OldCharacter(character);
    if (old == character) continue;
    copy.append(text, copied, at - copied);
    AppendUtf8(old, &copy);
    copied = at + length;
  }
  if (copied > 0) copy.append(text, copied);
  return copy;
}

}  // namespace spotd::text
