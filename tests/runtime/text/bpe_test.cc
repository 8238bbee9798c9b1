#include "runtime/text/bpe.h"

#include <gtest/gtest.h>

#include <unordered_map>

#include "runtime/text/byte_alphabet.h"
#include "runtime/text/tokenizer_json.h"
#include "tests/runtime/text/corpus.h"
#include "tests/runtime/text/test_files.h"

namespace spotd::text {
namespace {

TokenizerData Vocabulary() {
  auto data = ParseTokenizerJson(ReadGolden("tokenizers/qwen_small.json"), "");
  EXPECT_TRUE(data.ok()) << data.status();
  return *std::move(data);
}

std::unique_ptr<Bpe> MakeBpe(const TokenizerData& data) {
  std::vector<std::string> words;
  for (const std::string& token : data.vocab) words.push_back(AlphabetToBytes(token).value_or(""));
  auto bpe = Bpe::Create(data, std::move(words));
  EXPECT_TRUE(bpe.ok()) << bpe.status();
  return *std::move(bpe);
}

// BPE as its definition has it: again and again the pair of lowest rank, the leftmost of equals.
std::vector<int32_t> MergeNaively(const TokenizerData& data, const std::string& piece) {
  static std::unordered_map<std::string, int32_t> ranks;
  static std::unordered_map<std::string, int32_t> ids;
  if (ranks.empty()) {
    for (size_t i = 0; i < data.merges.size(); ++i) {
      ranks[data.merges[i].first + " " + data.merges[i].second] = static_cast<int32_t>(i);
    }
    for (size_t i = 0; i < data.vocab.size(); ++i) ids[data.vocab[i]] = static_cast<int32_t>(i);
  }
  std::vector<std::string> parts;
  for (const char c : piece) {
    const uint32_t character = AlphabetCharacter(static_cast<uint8_t>(c));
    parts.push_back(character < 0x80 ? std::string(1, static_cast<char>(character))
                                     : std::string{static_cast<char>(0xC0 | character >> 6),
                                                   static_cast<char>(0x80 | (character & 0x3F))});
  }
  while (true) {
    int32_t best = INT32_MAX;
    size_t at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = ranks.find(parts[i] + " " + parts[i + 1]);
      if (rank == ranks.end() || rank->second >= best) continue;
      best = rank->second;
      at = i;
    }
    if (best == INT32_MAX) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
  std::vector<int32_t> result;
  for (const std::string& part : parts) result.push_back(ids.at(part));
  return result;
}

TEST(BpeTest, AllWaysToMergeAgree) {
  const TokenizerData data = Vocabulary();
  const auto bpe = MakeBpe(data);
  const Corpus corpus(ReadGolden("seed.txt"));
  SeededRandom random(5);
  for (size_t i = 0; i < 3000; ++i) {
    std::string piece = corpus.RandomString(i).substr(0, 1 + random.Below(64));
    if (i % 3 == 0) piece = std::string(1 + random.Below(64), "ae \n"[random.Below(4)]);
    const std::vector<int32_t> expected = MergeNaively(data, piece);
    std::vector<int32_t> ids;
    bpe->MergeByScanForTest(piece, &ids);
    EXPECT_EQ(ids, expected) << piece;
    bpe->MergeByHeapForTest(piece, &ids);
    EXPECT_EQ(ids, expected) << piece;
    ids.clear();
    bpe->Encode(piece, &ids);
    EXPECT_EQ(ids, expected) << piece;
  }
}

TEST(BpeTest, LongPiecesToo) {
  const TokenizerData data = Vocabulary();
  const auto bpe = MakeBpe(data);
  const std::string text = Corpus(ReadGolden("seed.txt")).MixedText(1).substr(0, 3000);
  std::vector<int32_t> ids;
  bpe->Encode(text, &ids);
  EXPECT_EQ(ids, MergeNaively(data, text));
  ids.clear();
  bpe->Encode("", &ids);
  EXPECT_TRUE(ids.empty());
}

TEST(BpeTest, TheLastRankOfAPairCounts) {
  TokenizerData data;
  data.vocab = {"a", "b", "c", "ab", "bc"};
  data.merges = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  std::vector<int32_t> ids;
  MakeBpe(data)->Encode("abc", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 4}));
}

TEST(BpeTest, WholeWordsBeforeMergesWhereTheModelSaysSo) {
  TokenizerData data;
  data.vocab = {"a", "b", "c", "ab", "bc", "abc"};
  data.merges = {{"b", "c"}};
  std::vector<int32_t> ids;
  MakeBpe(data)->Encode("abc", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 4}));
  data.ignore_merges = true;
  ids.clear();
  MakeBpe(data)->Encode("abc", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{5}));
}

}  // namespace
}  // namespace spotd::text
