#include "runtime/text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
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

// The reference library normalises by Unicode 9.0: to it these marks, all newer, are ordinary
// characters. tests/data/text/make_nfc_marks.py finds them.
struct Range {
  int32_t first;
  int32_t last;
};
constexpr Range kNewMarks[] = {
    {0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},
    {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
    {0x1715, 0x1715},   {0x1ABF, 0x1AF0},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10ECB, 0x10ECF},
    {0x10EF0, 0x10EFB}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x113CE, 0x113D0}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x1612F, 0x1612F},
    {0x16FF0, 0x16FF1}, {0x1D127, 0x1D128}, {0x1D250, 0x1D252}, {0x1D25B, 0x1D25C},
    {0x1D25F, 0x1D25F}, {0x1D280, 0x1D281}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF},
    {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5},
};
// The one character that was given a decomposition since.
constexpr int32_t kNewComposite = 0x11938;

int CombiningClass(int32_t character) {
  const int value = utf8proc_get_property(character)->combining_class;
  if (value == 0) return 0;
  const auto* range =
      std::lower_bound(std::begin(kNewMarks), std::end(kNewMarks), character,
                       [](const Range& marks, int32_t mark) { return marks.last < mark; });
  return range != std::end(kNewMarks) && range->first <= character ? 0 : value;
}

std::vector<int32_t> Decompose(std::string_view text) {
  std::vector<int32_t> out;
  out.reserve(text.size());
  size_t length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    const auto character = static_cast<int32_t>(DecodeUtf8(text.data() + at, &length));
    if (character == kNewComposite) {
      out.push_back(character);
      continue;
    }
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

// The character that two make, or -1.
int32_t Compose(int32_t first, int32_t second) {
  // U+11A7 stands just before the trailing consonants of Hangul; the library takes it for one of
  // them.
  if (!IsActive(static_cast<uint32_t>(second)) || second == 0x11A7) return -1;
  int32_t pair[] = {first, second};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const bool composed = utf8proc_normalize_utf32(pair, 2, options) == 1;
  return composed && pair[0] != kNewComposite ? pair[0] : -1;
}

// Merges marks into the starter before them (Unicode standard, section 3.11, D117): a mark reaches
// the starter unless one of its own class or higher, or another starter, stands between.
void ComposeAll(std::vector<int32_t>* text) {
  constexpr size_t kNoStarter = SIZE_MAX;
  size_t starter = kNoStarter;
  size_t size = 0;  // of the composed part
  int last_class = 0;
  for (const int32_t character : *text) {
    const int combining = CombiningClass(character);
    const bool adjacent = starter != kNoStarter && starter + 1 == size;
    const bool reachable = starter != kNoStarter && (adjacent || last_class < combining);
    const int32_t merged = reachable ? Compose((*text)[starter], character) : -1;
    if (merged >= 0) {
      (*text)[starter] = merged;
      continue;
    }
    if (combining == 0) starter = size;
    last_class = combining;
    (*text)[size++] = character;
  }
  text->resize(size);
}

}  // namespace

std::string Nfc(std::string_view text) {
  if (IsNormalized(text)) return std::string(text);
  std::vector<int32_t> characters = Decompose(text);
  OrderMarks(&characters);
  ComposeAll(&characters);
  std::string out;
  out.reserve(text.size());
  for (const int32_t character : characters) AppendUtf8(static_cast<uint32_t>(character), &out);
  return out;
}

}  // namespace spotd::text
