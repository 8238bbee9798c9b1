#include "tests/runtime/text/tokenizer_goldens.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "runtime/text/utf8.h"
#include "tests/runtime/text/corpus.h"
#include "tests/runtime/text/test_files.h"

namespace spotd::text {
namespace {

constexpr size_t kSequencesPerBlock = 100;
constexpr size_t kIdsPerSequence = 40;

std::string Hex(const Fnv64& hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash.value()));
  return text;
}

void AddIds(const Tokenizer& tokenizer, const std::string& text, bool parse_special, Fnv64* hash) {
  const auto ids = tokenizer.Encode(text, {.add_special = false, .parse_special = parse_special});
  ASSERT_TRUE(ids.ok()) << ids.status();
  const auto count = static_cast<uint32_t>(ids->size());
  hash->Add(&count, sizeof count);
  hash->Add(ids->data(), ids->size() * sizeof(int32_t));
}

const Corpus& SharedCorpus() {
  static const Corpus corpus(ReadGolden("seed.txt"));
  return corpus;
}

}  // namespace

nlohmann::json TokenizerGoldens(const std::string& name) {
  return nlohmann::json::parse(ReadGolden("tokenizer_goldens.json")).at(name);
}

void ExpectSameSamples(const Tokenizer& tokenizer, const nlohmann::json& goldens) {
  for (const auto& sample : goldens.at("samples")) {
    const auto text = sample["text"].get<std::string>();
    const auto plain = tokenizer.Encode(text, {});
    const auto special = tokenizer.Encode(text, {.add_special = false, .parse_special = true});
    ASSERT_TRUE(plain.ok() && special.ok()) << text;
    EXPECT_EQ(*plain, sample["plain"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(*special, sample["special"].get<std::vector<int32_t>>()) << text;
  }
}

void ExpectSameMixedText(const Tokenizer& tokenizer, const nlohmann::json& goldens) {
  size_t bytes = 0;
  for (size_t i = 0; i < Corpus::kMixedRecords; ++i) {
    const std::string text = SharedCorpus().MixedText(i);
    bytes += text.size();
    Fnv64 hash;
    AddIds(tokenizer, text, i % 2 == 1, &hash);
    EXPECT_EQ(Hex(hash), goldens["mixed"][i].get<std::string>()) << "record " << i;
  }
  EXPECT_GT(bytes, 5'000'000u);
}

void ExpectSameRandomStrings(const Tokenizer& tokenizer, const nlohmann::json& goldens) {
  for (size_t block = 0; block < Corpus::kRandomBlocks; ++block) {
    Fnv64 hash;
    for (size_t i = 0; i < Corpus::kStringsPerBlock; ++i) {
      AddIds(tokenizer, SharedCorpus().RandomString(block * Corpus::kStringsPerBlock + i),
             block % 2 == 1, &hash);
    }
    EXPECT_EQ(Hex(hash), goldens["random"][block].get<std::string>()) << "block " << block;
  }
}

void ExpectSameDecodedText(const Tokenizer& tokenizer, const nlohmann::json& goldens) {
  // Of the reference: a model file may pad the vocabulary with unused ids.
  const auto vocabulary = goldens.at("vocabulary").get<size_t>();
  ASSERT_LE(vocabulary, static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t block = 0; block < goldens.at("decoded").size(); ++block) {
    SeededRandom random(0xDEC0DE + block);
    Fnv64 hash;
    for (size_t sequence = 0; sequence < kSequencesPerBlock; ++sequence) {
      std::vector<int32_t> ids;
      for (size_t i = 0; i < kIdsPerSequence; ++i) {
        ids.push_back(static_cast<int32_t>(random.Below(vocabulary)));
      }
      const auto bytes = tokenizer.Decode(ids, /*keep_special=*/sequence % 2 == 1);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      std::string text;
      AppendLossyUtf8(*bytes, /*final=*/true, &text);
      hash.Add(text.c_str(), text.size() + 1);
    }
    EXPECT_EQ(Hex(hash), goldens["decoded"][block].get<std::string>()) << "block " << block;
  }
}

}  // namespace spotd::text
