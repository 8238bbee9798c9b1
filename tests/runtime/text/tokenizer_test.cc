#include "runtime/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "runtime/text/tokenizer_json.h"
#include "runtime/text/utf8.h"
#include "tests/runtime/text/corpus.h"
#include "tests/runtime/text/test_files.h"
#include "tests/runtime/text/tokenizer_goldens.h"

namespace spotd::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::unique_ptr<Tokenizer> Load(const std::string& name) {
  auto data = ParseTokenizerJson(ReadGolden("tokenizers/" + name + ".json"), "");
  EXPECT_TRUE(data.ok()) << data.status();
  auto tokenizer = Tokenizer::Create(*std::move(data));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

class TokenizerFamilyTest : public testing::TestWithParam<const char*> {
 protected:
  TokenizerFamilyTest() : tokenizer_(Load(GetParam())), goldens_(TokenizerGoldens(GetParam())) {}
  const std::unique_ptr<Tokenizer> tokenizer_;
  const nlohmann::json goldens_;
};

TEST_P(TokenizerFamilyTest, SamplesAreAsTheReferences) {
  ExpectSameSamples(*tokenizer_, goldens_);
}
TEST_P(TokenizerFamilyTest, MixedTextIsAsTheReferences) {
  ExpectSameMixedText(*tokenizer_, goldens_);
}
TEST_P(TokenizerFamilyTest, RandomStringsAreAsTheReferences) {
  ExpectSameRandomStrings(*tokenizer_, goldens_);
}
TEST_P(TokenizerFamilyTest, DecodedTextIsAsTheReferences) {
  ExpectSameDecodedText(*tokenizer_, goldens_);
}

TEST_P(TokenizerFamilyTest, StreamedTextIsTheWholeText) {
  SeededRandom random(99);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids;
    for (size_t n = random.Below(60); n > 0; --n) {
      // Mostly single bytes, which come early in the vocabulary: broken characters of every kind.
      const size_t size =
          random.Below(4) == 0 ? static_cast<size_t>(tokenizer_->vocab_size()) : 256;
      ids.push_back(static_cast<int32_t>(random.Below(size)));
    }
    StreamDecoder stream(tokenizer_.get());
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = stream.Push(id);
      EXPECT_FALSE(FirstInvalidUtf8(piece)) << "half a character";
      text += piece;
    }
    text += stream.Finish();
    std::string whole;
    AppendLossyUtf8(*tokenizer_->Decode(ids), /*final=*/true, &whole);
    EXPECT_EQ(text, whole);
    EXPECT_EQ(stream.Finish(), "");
  }
}

TEST_P(TokenizerFamilyTest, HugeWordsTakeNoTime) {
  for (const std::string unit : {"a", "ab", " ", "\n", "1", "\u00e9", "e\u0301\u0323",
                                 "\u0323\u0301", "'", "\u4e2d", "<|"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const auto ids = tokenizer_->Encode(text + "x", {});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_GT(ids->size(), 0u);
  }
}

TEST_P(TokenizerFamilyTest, InvalidUtf8IsRefusedWithItsPlace) {
  for (const std::string bad :
       {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    const auto ids = tokenizer_->Encode("abc" + bad, {});
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(ids.status().message(), HasSubstr("byte 3"));
  }
}

TEST_P(TokenizerFamilyTest, ThreadsShareATokenizer) {
  const std::string text = Corpus(ReadGolden("seed.txt")).MixedText(3);
  const auto expected = *tokenizer_->Encode(text, {});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_EQ(*tokenizer_->Encode(text, {}), expected); });
  }
  for (auto& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerFamilyTest,
                         testing::Values("llama3_small", "qwen_small", "smollm_small"),
                         [](const auto& test) { return std::string(test.param); });

// A tokenizer of the bytes a..d and a few merges.
TokenizerData Tiny() {
  TokenizerData data;
  data.vocab = {"a", "b", "c", "d", "ab", "cd", "abcd", "", "bc"};
  data.merges = {{"a", "b"}, {"c", "d"}, {"ab", "cd"}, {"b", "c"}};
  data.added_tokens = {{.id = 7, .content = "<s>", .special = true}, {.id = 9, .content = "<w>"}};
  data.pre_tokenizer.gpt2_pattern = true;
  data.bos = 7;
  return data;
}

TEST(TokenizerTest, SpecialTokensInTextAreTextUnlessAskedFor) {
  auto data = Tiny();
  data.vocab.insert(data.vocab.end(), {"", "<", "s", ">"});
  const auto tokenizer = *Tokenizer::Create(data);
  EXPECT_THAT(*tokenizer->Encode("a<s>b<w>", {}), ElementsAre(0, 10, 11, 12, 1, 9));
  EXPECT_THAT(*tokenizer->Encode("a<s>b", {.add_special = false, .parse_special = true}),
              ElementsAre(0, 7, 1));
}

TEST(TokenizerTest, BosIsAddedWhereTheModelWantsOne) {
  auto data = Tiny();
  EXPECT_THAT(*(*Tokenizer::Create(data))->Encode("ab", {.add_special = true}), ElementsAre(4));
  data.add_bos = true;
  const auto tokenizer = *Tokenizer::Create(data);
  EXPECT_THAT(*tokenizer->Encode("ab", {.add_special = true}), ElementsAre(7, 4));
  EXPECT_THAT(*tokenizer->Encode("ab", {}), ElementsAre(4));
  EXPECT_THAT(*tokenizer->Encode("", {.add_special = true}), ElementsAre(7));
}

TEST(TokenizerTest, LowestRankMergesFirst) {
  const auto tokenizer = *Tokenizer::Create(Tiny());
  EXPECT_THAT(*tokenizer->Encode("abcd", {}), ElementsAre(6));
  EXPECT_THAT(*tokenizer->Encode("bc", {}), ElementsAre(8));
  EXPECT_THAT(*tokenizer->Encode("abc", {}), ElementsAre(4, 2));
}

TEST(TokenizerTest, BytesTheVocabularyLacks) {
  auto data = Tiny();
  EXPECT_THAT(*(*Tokenizer::Create(data))->Encode("a?b", {}), ElementsAre(0, 1));
  EXPECT_THAT(*(*Tokenizer::Create(data))->Encode("???", {}), IsEmpty());
  data.unknown = 3;
  EXPECT_THAT(*(*Tokenizer::Create(data))->Encode("a??b", {}), ElementsAre(0, 3, 3, 1));
  data.fuse_unknown = true;
  EXPECT_THAT(*(*Tokenizer::Create(data))->Encode("a??b", {}), ElementsAre(0, 3, 1));
}

TEST(TokenizerTest, ASpaceInFrontWhereAskedFor) {
  auto data = Tiny();
  data.vocab.push_back("");
  data.vocab.push_back("\u0120");  // the space
  data.pre_tokenizer.add_prefix_space = true;
  const auto tokenizer = *Tokenizer::Create(data);
  EXPECT_THAT(*tokenizer->Encode("ab", {}), ElementsAre(10, 4));
  EXPECT_THAT(*tokenizer->Encode(" ab", {}), ElementsAre(10, 4));
  EXPECT_THAT(*tokenizer->Encode("", {}), IsEmpty());
}

TEST(TokenizerTest, AskedAboutTokens) {
  const auto tokenizer = *Tokenizer::Create(Tiny());
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(tokenizer->bos(), 7);
  EXPECT_EQ(tokenizer->eos(), -1);
  EXPECT_TRUE(tokenizer->IsSpecial(7));
  EXPECT_FALSE(tokenizer->IsSpecial(9));
  EXPECT_EQ(tokenizer->TokenText(7), "<s>");
  EXPECT_EQ(tokenizer->TokenBytes(7), "");
  EXPECT_EQ(tokenizer->TokenBytes(9), "<w>");
  EXPECT_EQ(tokenizer->TokenBytes(6), "abcd");
  for (const int32_t id : {-1, 10, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_EQ(tokenizer->TokenText(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    const std::vector<int32_t> ids = {0, id};
    EXPECT_EQ(tokenizer->Decode(ids).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const std::vector<int32_t> ids = {7, 6, 9};
  EXPECT_EQ(*tokenizer->Decode(ids), "abcd<w>");
  EXPECT_EQ(*tokenizer->Decode(ids, /*keep_special=*/true), "<s>abcd<w>");
}

TEST(TokenizerTest, InconsistentDataIsRefused) {
  const auto refused = [](void (*spoil)(TokenizerData*)) {
    auto data = Tiny();
    spoil(&data);
    const auto tokenizer = Tokenizer::Create(data);
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(tokenizer.status().message());
  };
  EXPECT_THAT(refused([](TokenizerData* d) {
                d->merges.push_back({"a", "z"});
              }),
              HasSubstr("merge 4"));
  EXPECT_THAT(refused([](TokenizerData* d) {
                d->merges.push_back({"d", "a"});
              }),
              HasSubstr("merge 4"));
  EXPECT_THAT(refused([](TokenizerData* d) { d->pre_tokenizer.patterns = {"(a"}; }),
              HasSubstr("(a"));
  EXPECT_THAT(refused([](TokenizerData* d) { d->added_tokens[0].id = -3; }), HasSubstr("-3"));
  EXPECT_THAT(refused([](TokenizerData* d) { d->added_tokens[0].id = INT32_MAX; }),
              HasSubstr("<s>"));
  EXPECT_THAT(refused([](TokenizerData* d) { d->added_tokens[0].content = "\xff"; }),
              HasSubstr("UTF-8"));
  EXPECT_THAT(refused([](TokenizerData* d) { d->eos = 77; }), HasSubstr("77"));
}

TEST(TokenizerTest, APatternThatBacktracksForeverIsAnError) {
  auto data = Tiny();
  data.pre_tokenizer.patterns = {"(?:a+)+[^ac]"};
  const auto ids = (*Tokenizer::Create(data))->Encode(std::string(5000, 'a') + "c", {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace spotd::text
