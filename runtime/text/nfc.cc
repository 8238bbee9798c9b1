#include "runtime/text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/core/check.h"
#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

constexpr uint8_t kLeadOfFirstMark = 0xCC;  // of U+0300; text below it is in form C already
constexpr uint16_t kNone = 0xFFFF;

bool IsConjoiningJamo(uint32_t character) {
  return character >= 0x1100 && character <= 0x11FF;
}

// May this character be changed, moved or merged into the one before it?
bool IsActive(uint32_t character) {
  if (character < 0x300) return false;
  const utf8proc_property_t& property = *utf8proc_get_property(static_cast<int32_t>(character));
  const bool decomposes = property.decomp_seqindex != kNone && property.decomp_type == 0;
  return property.combining_class != 0 || decomposes || property.comb_index != kNone ||
         IsConjoiningJamo(character);
}

bool IsNormalized(std::string_view text) {
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const auto lead = static_cast<uint8_t>(text[at]);
    if (lead < kLeadOfFirstMark) {
      length = lead < 0x80 ? 1 : 2;
    } else if (IsActive(DecodeUtf8(text.data() + at, &length))) {
      return false;
    }
  }
  return true;
}

int CombiningClass(int32_t character) {
  return utf8proc_get_property(character)->combining_class;
}

std::vector<int32_t> Decompose(std::string_view text) {
  std::vector<int32_t> out;
  out.reserve(text.size());
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const auto character = static_cast<int32_t>(DecodeUtf8(text.data() + at, &length));
    constexpr int kMaxParts = 8;
    int32_t parts[kMaxParts];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        character, parts, kMaxParts,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    SPOTD_CHECK(count > 0 && count <= kMaxParts);
    out.insert(out.end(), parts, parts + count);
  }
  return out;
}

// Puts each run of combining marks in the order of their classes. The library's own sort takes
// quadratic time.
void OrderMarks(std::vector<int32_t>* text) {
  const auto is_starter = [](int32_t character) { return CombiningClass(character) == 0; };
  const auto by_class = [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); };
  auto run = text->begin();
  while (true) {
    run = std::find_if_not(run, text->end(), is_starter);
    if (run == text->end()) return;
    const auto end = std::find_if(run, text->end(), is_starter);
    std::stable_sort(run, end, by_class);
    run = end;
  }
}

}  // namespace

std::string Nfc(std::string_view text) {
  if (IsNormalized(text)) return std::string(text);
  std::vector<int32_t> characters = Decompose(text);
  OrderMarks(&characters);
  const auto count =
      utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  SPOTD_CHECK(count >= 0);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    AppendUtf8(static_cast<uint32_t>(characters[static_cast<size_t>(i)]), &out);
  }
  return out;
}

}  // namespace spotd::text
