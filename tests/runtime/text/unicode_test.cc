// UTF-8, the byte alphabet, normalisation and regular expressions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "runtime/text/byte_alphabet.h"
#include "runtime/text/nfc.h"
#include "runtime/text/pre_splitter.h"
#include "runtime/text/pre_tokenizers.h"
#include "runtime/text/regex.h"
#include "runtime/text/unicode_update.h"
#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Lossy(const std::string& bytes) {
  std::string text;
  EXPECT_EQ(AppendLossyUtf8(bytes, /*final=*/true, &text), bytes.size());
  return text;
}

TEST(Utf8Test, EveryCharacterGoesThereAndBack) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    size_t length = 0;
    ASSERT_EQ(DecodeUtf8(text.data(), &length), c);
    ASSERT_EQ(length, text.size());
    ASSERT_FALSE(FirstInvalidUtf8(text)) << c;
  }
}

TEST(Utf8Test, BrokenBytesAreReplacedByMaximalSubparts) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(Lossy("a\xff"
                  "b"),
            "a" + r + "b");
  EXPECT_EQ(Lossy("\xf0\x9f\x98"), r);  // an unfinished character is one
  EXPECT_EQ(Lossy("\xf0\x9f\x98z"), r + "z");
  EXPECT_EQ(Lossy("\xe2\x82\xe2\x82\xac"), r + "\u20ac");
  EXPECT_EQ(Lossy("\xc0\xaf"), r + r);                  // overlong: each byte
  EXPECT_EQ(Lossy("\xed\xa0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(Lossy("\xf4\x90\x80\x80"), r + r + r + r);  // above U+10FFFF
  EXPECT_EQ(Lossy("\x80\x80"), r + r);
  EXPECT_EQ(Lossy("\xf1\x80\x80\xc2"), r + r);
}

TEST(Utf8Test, TheFirstInvalidByteIsFound) {
  EXPECT_FALSE(FirstInvalidUtf8(""));
  EXPECT_EQ(FirstInvalidUtf8(std::string(100, 'a') + "\xff"), 100u);
  EXPECT_EQ(FirstInvalidUtf8("\u00e9\xe2\x82"), 2u);
}

TEST(ByteAlphabetTest, HoldsEveryByteOnce) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string text;
    AppendUtf8(AlphabetCharacter(static_cast<uint8_t>(byte)), &text);
    EXPECT_EQ(AlphabetToBytes(text), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(AlphabetToBytes("\u0120the"), " the");
  EXPECT_EQ(AlphabetToBytes("a b"), std::nullopt);
  EXPECT_EQ(AlphabetToBytes("\u4e2d"), std::nullopt);
  EXPECT_EQ(AlphabetToBytes("\xff"), std::nullopt);
}

TEST(NfcTest, ComposesAndOrders) {
  EXPECT_EQ(Nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(Nfc("e\u0323\u0302"), Nfc("e\u0302\u0323"));
  EXPECT_EQ(Nfc("e\u0302\u0323"), "\u1ec7");
  EXPECT_EQ(Nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(Nfc("\uac00\u11a7"), "\uac00\u11a7");
  EXPECT_EQ(Nfc("\u212b\u2126"), "\u00c5\u03a9");
  EXPECT_EQ(Nfc("\u0958"), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(Nfc("a\u0345\u0301"), "\u00e1\u0345");
  EXPECT_EQ(Nfc("plain \u00e9 \u4e2d"), "plain \u00e9 \u4e2d");
  EXPECT_EQ(Nfc(""), "");
}

TEST(NfcTest, MarksWithoutEndTakeLinearTime) {
  std::string text = "a";
  for (int i = 0; i < 300'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::clock_t begin = std::clock();  // of the CPU: the machine may be busy
  EXPECT_GT(Nfc(text).size(), 600'000u);
  EXPECT_LT(std::clock() - begin, 5 * CLOCKS_PER_SEC);
}

TEST(UnicodeUpdateTest, NewCharactersBecomeOldOnesOfTheirLength) {
  EXPECT_EQ(WithOldCharacters("a\u00e9\u4e2d\U0001F600"), "");
  const std::string text = "x\U0002EBF0y\u180Ez\U0001E4D0";
  const std::string old = WithOldCharacters(text);
  ASSERT_EQ(old.size(), text.size());
  EXPECT_EQ(old, "x\U00020000y\u200bz\U00010000");
}

TEST(RegexTest, MeaningsThatDifferBetweenLibrariesAreRefused) {
  for (const char* pattern : {"\\w+", "a\\b", "\\h", "[\\w]"}) {
    EXPECT_EQ(Regex::Compile(pattern).status().code(), absl::StatusCode::kUnimplemented) << pattern;
  }
  EXPECT_THAT(Regex::Compile("(a").status().message(), HasSubstr("offset"));
  EXPECT_FALSE(Regex::Compile("\xff").ok());
  EXPECT_TRUE(Regex::Compile("\\\\w").ok());
}

std::vector<std::string> Pieces(const TokenizerData::PreTokenizer& rules, const std::string& text) {
  const auto splitter = PreSplitter::Create(rules);
  EXPECT_TRUE(splitter.ok()) << splitter.status();
  std::vector<std::string> pieces;
  EXPECT_TRUE(
      splitter->Split(text, [&](std::string_view piece) { pieces.emplace_back(piece); }).ok());
  return pieces;
}

TEST(PreSplitterTest, MatchesAndWhatIsBetween) {
  TokenizerData::PreTokenizer rules;
  rules.patterns = {"b+"};
  EXPECT_THAT(Pieces(rules, "abbcb"), ElementsAre("a", "bb", "c", "b"));
  rules.patterns = {"x*"};  // an empty match cuts too
  EXPECT_THAT(Pieces(rules, "axxb"), ElementsAre("a", "xx", "b"));
  rules.patterns = {"b", "[ac]"};
  EXPECT_THAT(Pieces(rules, "acbca"), ElementsAre("a", "c", "b", "c", "a"));
  rules.patterns = {};
  EXPECT_THAT(Pieces(rules, "a b"), ElementsAre("a b"));
}

TEST(PreTokenizersTest, FamiliesByName) {
  const auto pieces = [](const char* name, const std::string& text) {
    const auto rules = PreTokenizerByName(name);
    EXPECT_TRUE(rules.ok()) << rules.status();
    return Pieces(rules->pre_tokenizer, text);
  };
  EXPECT_THAT(pieces("smollm", "it's 12 o"), ElementsAre("it", "'s", " ", "1", "2", " o"));
  EXPECT_THAT(pieces("gpt-2", "it'S 1234"), ElementsAre("it", "'", "S", " 1234"));
  EXPECT_THAT(pieces("qwen2", "it'S 1234\n\n x"),
              ElementsAre("it", "'S", " ", "1", "2", "3", "4", "\n\n", " x"));
  EXPECT_THAT(pieces("llama-bpe", "a 1234\n"), ElementsAre("a", " ", "123", "4", "\n"));
  EXPECT_TRUE(PreTokenizerByName("llama-bpe")->ignore_merges &&
              PreTokenizerByName("llama-bpe")->add_bos);
  EXPECT_TRUE(PreTokenizerByName("qwen2")->nfc);
  EXPECT_TRUE(PreTokenizerByName("").ok());
  EXPECT_EQ(PreTokenizerByName("tekken-9").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(PreTokenizerByName("tekken-9").status().message(), HasSubstr("tekken-9"));
}

}  // namespace
}  // namespace spotd::text
