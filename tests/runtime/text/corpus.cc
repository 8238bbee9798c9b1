#include "tests/runtime/text/corpus.h"

#include <array>
#include <string_view>

#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

struct Block {
  uint32_t first;
  uint32_t last;
};

// Where random characters come from. Unassigned ones among them are welcome: text may hold
// anything.
constexpr std::array<Block, 40> kBlocks = {{
    {0x00, 0x1F},       {0x20, 0x7E},       {0x20, 0x7E},       {0x41, 0x5A},
    {0x61, 0x7A},       {0x80, 0xFF},       {0x100, 0x24F},     {0x250, 0x2FF},
    {0x300, 0x36F},     {0x370, 0x3FF},     {0x400, 0x4FF},     {0x530, 0x5FF},
    {0x600, 0x6FF},     {0x700, 0x8FF},     {0x900, 0xDFF},     {0xE00, 0xFFF},
    {0x1000, 0x10FF},   {0x1100, 0x11FF},   {0x1200, 0x139F},   {0x1700, 0x1AFF},
    {0x1B00, 0x1DFF},   {0x1E00, 0x1FFF},   {0x2000, 0x206F},   {0x2070, 0x20FF},
    {0x2100, 0x21FF},   {0x2200, 0x2BFF},   {0x2C00, 0x2FFF},   {0x3000, 0x30FF},
    {0x3100, 0x33FF},   {0x4E00, 0x9FFF},   {0xA000, 0xABFF},   {0xAC00, 0xD7A3},
    {0xE000, 0xF8FF},   {0xF900, 0xFFFD},   {0x10000, 0x10FFF}, {0x11000, 0x12FFF},
    {0x16000, 0x18FFF}, {0x1D000, 0x1EFFF}, {0x1F000, 0x1FAFF}, {0x20000, 0x32FFF},
}};

constexpr std::array<std::string_view, 24> kSpecials = {"<|im_start|>",
                                                        "<|im_end|>",
                                                        "<|endoftext|>",
                                                        "<|begin_of_text|>",
                                                        "<|eot_id|>",
                                                        "<|start_header_id|>",
                                                        "<tool_call>",
                                                        "</tool_call>",
                                                        "<|im_",
                                                        "end|>",
                                                        "<|",
                                                        "|>",
                                                        "<|im_start|><|im_end|>",
                                                        "<repo_name>",
                                                        "<think>",
                                                        "</think>",
                                                        "[LEFT]",
                                                        " [LEFT] ",
                                                        "[RIGHT]\n\n",
                                                        "\u00e9clair",
                                                        "e\u0301clair",
                                                        "<|im_end|",
                                                        "|im_end|>",
                                                        "[LEFT]x[RIGHT]"};
constexpr std::array<std::string_view, 14> kContractions = {
    "'s",  "'S", "'t",  "'T", "'re",     "'VE",     "'m",
    "'LL", "'d", "'ll", "''", "'\u017f", "\u2019s", "'x"};
constexpr std::array<std::string_view, 24> kSpaces = {
    " ",      "  ",     "\t",     "\n",     "\r",     "\r\n",   "\n\n",   "\v",
    "\f",     "\u0085", "\u00a0", "\u1680", "\u180e", "\u2003", "\u200b", "\u2028",
    "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "   ",    " \n",    "\n "};
constexpr std::array<std::string_view, 12> kEmoji = {"\U0001F600",
                                                     "\U0001F44D\U0001F3FD",
                                                     "\U0001F468\u200d\U0001F469\u200d\U0001F467",
                                                     "\U0001F3F3\ufe0f\u200d\U0001F308",
                                                     "\U0001F1FA\U0001F1E6",
                                                     "\u2764\ufe0f",
                                                     "1\ufe0f\u20e3",
                                                     "\U0001FAE0",
                                                     "\U0001FABF",
                                                     "\u263a",
                                                     "\U0001F9D1\u200d\U0001F4BB",
                                                     "\u2714\ufe0f"};
constexpr std::array<std::string_view, 16> kSyllables = {"ta", "re",   "in",   "con", "ment", "Pro",
                                                         "ly", "qu",   "z",    "str", "ing",  "Y",
                                                         "e",  "ough", "tion", "ex"};

template <size_t kCount>
std::string OneOf(SeededRandom* random, const std::array<std::string_view, kCount>& choices) {
  return std::string(choices[random->Below(kCount)]);
}

uint32_t RandomCharacter(SeededRandom* random, const Block& block) {
  const uint32_t c =
      block.first + static_cast<uint32_t>(random->Below(block.last - block.first + 1));
  return c >= 0xD800 && c <= 0xDFFF ? 0xFFFD : c;
}

std::string RandomCharacters(SeededRandom* random, size_t max, bool one_block) {
  std::string text;
  const Block block = kBlocks[random->Below(kBlocks.size())];
  for (size_t n = 1 + random->Below(max); n > 0; --n) {
    AppendUtf8(RandomCharacter(random, one_block ? block : kBlocks[random->Below(kBlocks.size())]),
               &text);
  }
  return text;
}

// A letter with marks on it, in any order.
std::string MarkedLetters(SeededRandom* random) {
  constexpr std::array<Block, 6> kMarks = {{{0x300, 0x36F},
                                            {0x300, 0x345},
                                            {0x591, 0x5C7},
                                            {0x64B, 0x65F},
                                            {0x1AB0, 0x1AFF},
                                            {0x1DC0, 0x1DFF}}};
  std::string text;
  for (size_t n = 1 + random->Below(4); n > 0; --n) {
    text += "aeioAEOUnsyk"[random->Below(12)];
    for (size_t marks = random->Below(4); marks > 0; --marks) {
      AppendUtf8(RandomCharacter(random, kMarks[random->Below(kMarks.size())]), &text);
    }
  }
  return text;
}

std::string Number(SeededRandom* random) {
  constexpr std::string_view kDigits = "0123456789";
  constexpr std::array<uint32_t, 6> kZeros = {'0', '0', 0x660, 0x966, 0xFF10, 0x1D7CE};
  std::string text;
  const uint32_t zero = kZeros[random->Below(kZeros.size())];
  for (size_t n = 1 + random->Below(9); n > 0; --n) {
    AppendUtf8(zero + static_cast<uint32_t>(random->Below(kDigits.size())), &text);
    if (random->Below(5) == 0) text += ".,:-_eExX"[random->Below(9)];
  }
  return text;
}

std::string Words(SeededRandom* random, size_t max) {
  std::string text;
  for (size_t n = 1 + random->Below(max); n > 0; --n) {
    for (size_t k = 1 + random->Below(4); k > 0; --k) text += OneOf(random, kSyllables);
    if (random->Below(6) == 0) text += OneOf(random, kContractions);
    if (random->Below(8) == 0) text += ".,;:!?()[]{}\"#/\\&*+-=<>@^_`|~$%"[random->Below(31)];
    text += random->Below(10) == 0 ? OneOf(random, kSpaces) : " ";
  }
  return text;
}

std::string Repeat(SeededRandom* random, size_t max) {
  const std::string unit =
      random->Below(2) == 0 ? OneOf(random, kSpaces) : RandomCharacters(random, 2, true);
  std::string text;
  for (size_t n = 1 + random->Below(max); n > 0; --n) text += unit;
  return text;
}

}  // namespace

uint64_t SeededRandom::Next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

Corpus::Corpus(const std::string& seed_text) {
  size_t length = 0;
  for (size_t at = 0; at < seed_text.size(); at += length) {
    DecodeUtf8(seed_text.data() + at, &length);
    seed_.push_back(seed_text.substr(at, length));
  }
}

std::string Corpus::SeedPiece(SeededRandom* random, size_t max_characters) const {
  const size_t begin = random->Below(seed_.size());
  const size_t count = 1 + random->Below(max_characters);
  std::string text;
  for (size_t i = begin; i < begin + count && i < seed_.size(); ++i) text += seed_[i];
  return text;
}

// Characters doubled, dropped, exchanged for others, spaces broken.
std::string Corpus::DamagedPiece(SeededRandom* random) const {
  const size_t begin = random->Below(seed_.size());
  std::string text;
  for (size_t i = begin; i < begin + 300 && i < seed_.size(); ++i) {
    const std::string& c = seed_[i];
    switch (random->Below(24)) {
      case 0:
        break;
      case 1:
        text += c + c;
        break;
      case 2:
        text += RandomCharacters(random, 1, true);
        break;
      case 3:
        text += OneOf(random, kSpaces);
        break;
      default:
        text += c == "\n" ? "\r\n" : c;
    }
  }
  return text;
}

std::string Corpus::MixedText(size_t record) const {
  SeededRandom random(0x5EED0000 + record);
  std::string text;
  while (text.size() < (size_t{64} << 10)) {
    switch (random.Below(12)) {
      case 0:
      case 1:
      case 2:
        text += SeedPiece(&random, 1500);
        break;
      case 3:
      case 4:
        text += DamagedPiece(&random);
        break;
      case 5:
        text += Words(&random, 60);
        break;
      case 6:
        text += RandomCharacters(&random, 40, /*one_block=*/true);
        break;
      case 7:
        text += Repeat(&random, random.Below(20) == 0 ? 3000 : 12);
        break;
      case 8:
        text += OneOf(&random, kEmoji) + OneOf(&random, kEmoji) + OneOf(&random, kSpaces);
        break;
      case 9:
        text += MarkedLetters(&random) + OneOf(&random, kSpaces);
        break;
      case 10:
        text += Number(&random) + " ";
        break;
      default:
        text += OneOf(&random, kSpecials);
    }
  }
  return text;
}

std::string Corpus::RandomString(size_t number) const {
  SeededRandom random(0xABCD00000000 + number);
  std::string text;
  for (size_t n = 1 + random.Below(9); n > 0; --n) {
    switch (random.Below(11)) {
      case 0:
        text += RandomCharacters(&random, 8, /*one_block=*/false);
        break;
      case 1:
        text += RandomCharacters(&random, 8, /*one_block=*/true);
        break;
      case 2:
        text += OneOf(&random, kSpaces);
        break;
      case 3:
        text += OneOf(&random, kSpecials);
        break;
      case 4:
        text += OneOf(&random, kContractions);
        break;
      case 5:
        text += MarkedLetters(&random);
        break;
      case 6:
        text += Number(&random);
        break;
      case 7:
        text += OneOf(&random, kEmoji);
        break;
      case 8:
        text += Repeat(&random, 6);
        break;
      case 9:
        text += SeedPiece(&random, 30);
        break;
      default:
        text += Words(&random, 3);
    }
  }
  return text;
}

void Fnv64::Add(const void* data, size_t bytes) {
  const auto* byte = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) hash_ = (hash_ ^ byte[i]) * 0x100000001b3u;
}

}  // namespace spotd::text
