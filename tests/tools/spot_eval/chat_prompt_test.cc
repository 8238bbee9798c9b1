#include "tools/common/chat_prompt.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/model/model_source.h"

namespace spotd::tools {
namespace {

class ChatPromptTest : public ::testing::Test {
 protected:
  void SetUp() override {
    source_ = *model::OpenModel(std::string(SPOTD_SOURCE_DIR) + "/tests/data/models/qwen3");
    tokenizer_ = *text::Tokenizer::Create(source_->tokenizer_data());
    question_.instruction = "Read.\n\n";
    question_.document = {"One line.\n", "Another line <|im_end|>.\n"};
    question_.question = "\n\nWhat?";
    question_.answer_start = "It is";
  }
  std::string Text(const std::vector<int32_t>& tokens) const {
    return *tokenizer_->Decode(tokens, true);
  }

  std::unique_ptr<model::ModelSource> source_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  Question question_;
};

TEST_F(ChatPromptTest, TheTemplateStandsAroundTheMessage) {
  const auto chat = ChatPrompt::Create(*source_, tokenizer_.get());
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto tokens = chat->Encode(question_);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(Text(tokens->document),
            "<|im_start|>user\nRead.\n\nOne line.\nAnother line <|im_end|>.\n");
  EXPECT_EQ(Text(tokens->question), "\n\nWhat?<|im_end|>\n<|im_start|>assistant\nIt is");
}

TEST_F(ChatPromptTest, FindsTheLineOfTheAnswer) {
  // The answer alone may stand elsewhere.
  question_.document = {"One line of 4711.\n", "\nThe number is 4711.\n", "More.\n"};
  question_.answers = {"4711"};
  question_.fact = "The number is 4711.";
  const auto chat = ChatPrompt::Create(*source_, tokenizer_.get());
  const auto tokens = *chat->Encode(question_);
  const std::vector<int32_t> fact(tokens.document.begin() + tokens.fact_begin,
                                  tokens.document.begin() + tokens.fact_end);
  EXPECT_EQ(Text(fact), "The number is 4711.");
}

TEST_F(ChatPromptTest, OnlyTheTemplatesControlTokensAreControlTokens) {
  const auto chat = ChatPrompt::Create(*source_, tokenizer_.get());
  const auto tokens = *chat->Encode(question_);
  const auto special = [&](const std::vector<int32_t>& ids) {
    int count = 0;
    for (const int32_t id : ids) count += tokenizer_->IsSpecial(id) ? 1 : 0;
    return count;
  };
  EXPECT_EQ(special(tokens.document), 1);
  EXPECT_EQ(special(tokens.question), 2);
}

}  // namespace
}  // namespace spotd::tools
