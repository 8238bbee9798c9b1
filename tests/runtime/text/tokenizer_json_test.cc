#include "runtime/text/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer.h"
#include "tests/runtime/text/test_files.h"

namespace spotd::text {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// The smallest document that is accepted.
json Minimal() {
  return json::parse(R"({
    "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

absl::StatusOr<TokenizerData> ParseWith(const std::string& pointer, const json& value,
                                        const std::string& config = "") {
  json document = Minimal();
  document[json::json_pointer(pointer)] = value;
  return ParseTokenizerJson(document.dump(), config);
}

TEST(TokenizerJsonTest, ReadsWhatIsThere) {
  const auto data = ParseTokenizerJson(Minimal().dump(), "");
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->vocab, (std::vector<std::string>{"a", "b", "ab"}));
  EXPECT_EQ(data->merges.size(), 1u);
  ASSERT_EQ(data->added_tokens.size(), 1u);
  EXPECT_TRUE(data->added_tokens[0].special);
  EXPECT_FALSE(data->added_tokens[0].normalized);
  EXPECT_TRUE(data->pre_tokenizer.gpt2_pattern);
  EXPECT_FALSE(data->pre_tokenizer.add_prefix_space);
  EXPECT_FALSE(data->nfc || data->ignore_merges || data->add_bos);
  EXPECT_TRUE(data->bos == -1 && data->eos == -1 && data->unknown == -1);
  EXPECT_TRUE(Tokenizer::Create(*data).ok());
}

TEST(TokenizerJsonTest, BothWaysToWriteMerges) {
  const auto data = ParseWith("/model/merges", json::parse(R"([["a", "b"], "b a"])"));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->merges[0], std::pair(std::string("a"), std::string("b")));
  EXPECT_EQ(data->merges[1], std::pair(std::string("b"), std::string("a")));
}

TEST(TokenizerJsonTest, StepsBeforeBpe) {
  const auto steps = json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false},
      {"type": "Split", "pattern": {"String": "a.b"}, "behavior": "Isolated"},
      {"type": "ByteLevel", "add_prefix_space": true, "use_regex": false}]})");
  const auto data = ParseWith("/pre_tokenizer", steps);
  ASSERT_TRUE(data.ok()) << data.status();
  ASSERT_EQ(data->pre_tokenizer.patterns.size(), 3u);
  EXPECT_EQ(data->pre_tokenizer.patterns[1], "x+");
  EXPECT_EQ(data->pre_tokenizer.patterns[2], "a\\.b");
  EXPECT_TRUE(data->pre_tokenizer.add_prefix_space);
  EXPECT_FALSE(data->pre_tokenizer.gpt2_pattern);
  EXPECT_TRUE(ParseWith("/normalizer", json::parse(R"({"type": "NFC"})"))->nfc);
  EXPECT_FALSE(
      ParseWith("/normalizer", json::parse(R"({"type": "Sequence", "normalizers": []})"))->nfc);
}

TEST(TokenizerJsonTest, NamedTokensAndTemplate) {
  const std::string config =
      R"({"bos_token": {"content": "<s>"}, "eos_token": "b", "pad_token": null,
      "add_bos_token": true, "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]})";
  const auto data = ParseTokenizerJson(Minimal().dump(), config);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->bos, 3);
  EXPECT_EQ(data->eos, 1);
  EXPECT_EQ(data->pad, -1);
  EXPECT_TRUE(data->add_bos);
  EXPECT_EQ(data->chat_template, "D");
  EXPECT_EQ(ParseTokenizerJson(Minimal().dump(), R"({"chat_template": "x"})")->chat_template, "x");
}

TEST(TokenizerJsonTest, APostProcessorMayAskForBos) {
  const auto post = json::parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}]}]})");
  const auto data = ParseWith("/post_processor", post);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_TRUE(data->add_bos);
  EXPECT_EQ(data->bos, 3);
  EXPECT_FALSE(ParseWith("/post_processor", post, R"({"add_bos_token": false})")->add_bos);
  const auto llama = ParseTokenizerJson(ReadGolden("tokenizers/llama3_small.json"), "");
  ASSERT_TRUE(llama.ok());
  EXPECT_TRUE(llama->add_bos && llama->ignore_merges);
}

TEST(TokenizerJsonTest, WhatIsNotSupportedIsNamed) {
  const auto message = [](const std::string& pointer, const char* value) {
    const auto data = ParseWith(pointer, json::parse(value));
    EXPECT_EQ(data.status().code(), absl::StatusCode::kUnimplemented)
        << pointer << value << data.status();
    return std::string(data.status().message());
  };
  EXPECT_THAT(message("/model/type", R"("Unigram")"), HasSubstr("Unigram"));
  EXPECT_THAT(message("/model/type", R"("WordPiece")"), HasSubstr("WordPiece"));
  EXPECT_THAT(message("/model/byte_fallback", "true"), HasSubstr("byte_fallback"));
  EXPECT_THAT(message("/model/dropout", "0.1"), HasSubstr("dropout"));
  EXPECT_THAT(message("/model/continuing_subword_prefix", R"("##")"),
              HasSubstr("continuing_subword_prefix"));
  EXPECT_THAT(message("/normalizer", R"({"type": "Lowercase"})"), HasSubstr("Lowercase"));
  EXPECT_THAT(message("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFKC"}]})"),
              HasSubstr("NFKC"));
  EXPECT_THAT(message("/pre_tokenizer", R"({"type": "Metaspace"})"), HasSubstr("Metaspace"));
  EXPECT_THAT(message("/pre_tokenizer", "null"), HasSubstr("pre-tokenizer"));
  EXPECT_THAT(message("/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed"}, {"type": "ByteLevel"}]})"),
              HasSubstr("Removed"));
  EXPECT_THAT(message("/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
      {"type": "ByteLevel"}, {"type": "Digits"}]})"),
              HasSubstr("ByteLevel"));
  EXPECT_THAT(message("/decoder", R"({"type": "Metaspace"})"), HasSubstr("Metaspace"));
  EXPECT_THAT(message("/post_processor", R"({"type": "BertProcessing"})"),
              HasSubstr("BertProcessing"));
  EXPECT_THAT(message("/post_processor",
                      R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}},
      {"SpecialToken": {"id": "<s>"}}]})"),
              HasSubstr("before"));
  EXPECT_THAT(message("/added_tokens/0/single_word", "true"), HasSubstr("single_word"));
}

TEST(TokenizerJsonTest, WrongTypesAreRefusedEverywhere) {
  // Every place in the document in turn becomes something else; nothing may crash, and a value of
  // no use is an error.
  const json flat = Minimal().flatten();
  for (const auto& [pointer, original] : flat.items()) {
    for (const char* value :
         {"null", "-1", "1e300", "[]", "{}", "\"x\"", "true", "99999999999999999999", "[[[[]]]]"}) {
      const auto data = ParseWith(pointer, json::parse(value));
      if (data.ok()) (void)Tokenizer::Create(*data).ok();
    }
  }
  for (const char* pointer :
       {"/model", "/model/vocab", "/model/merges", "/model/vocab/a", "/added_tokens/0/id",
        "/added_tokens/0/content", "/added_tokens", "/model/merges/0", "/decoder"}) {
    EXPECT_FALSE(ParseWith(pointer, json::parse("-1.5")).ok()) << pointer;
    EXPECT_FALSE(ParseWith(pointer, json::parse("true")).ok()) << pointer;
  }
}

TEST(TokenizerJsonTest, MalformedDocuments) {
  const std::string document = Minimal().dump();
  for (size_t size = 0; size < document.size(); ++size) {
    EXPECT_FALSE(ParseTokenizerJson(document.substr(0, size), "").ok());
  }
  EXPECT_FALSE(ParseTokenizerJson(document, "{").ok());
  EXPECT_FALSE(ParseTokenizerJson(document, "[]").ok());
  EXPECT_FALSE(ParseTokenizerJson(document, R"({"bos_token": 5})").ok());
  EXPECT_FALSE(ParseTokenizerJson(document, R"({"bos_token": "nope"})").ok());
  EXPECT_FALSE(ParseTokenizerJson(document, R"({"add_bos_token": "yes"})").ok());
  EXPECT_FALSE(ParseTokenizerJson(document, R"({"chat_template": 5})").ok());
  EXPECT_FALSE(ParseTokenizerJson(document, R"({"chat_template": [5]})").ok());
  EXPECT_FALSE(ParseTokenizerJson("[" + std::string(200'000, '['), "").ok());
  EXPECT_FALSE(ParseTokenizerJson("\xff", "").ok());
}

TEST(TokenizerJsonTest, AbsurdSizesAreRefused) {
  EXPECT_FALSE(ParseWith("/model/vocab/a", 4'000'000'000u).ok());
  EXPECT_FALSE(ParseWith("/model/vocab/a", 2).ok());  // taken by "ab"
  EXPECT_FALSE(ParseWith("/added_tokens/0/id", 1 << 30).ok());
  json nested = json::parse(R"({"type": "ByteLevel"})");
  for (int i = 0; i < 20; ++i) {
    nested = json::object({{"type", "Sequence"}, {"pretokenizers", json::array({nested})}});
  }
  EXPECT_FALSE(ParseWith("/pre_tokenizer", nested).ok());
}

}  // namespace
}  // namespace spotd::text
