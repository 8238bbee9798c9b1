#include "tools/spot_distill/question_documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "runtime/model/model_source.h"

namespace spotd::distill {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLength = 2000;

class QuestionDocumentsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    source_ = *model::OpenModel(std::string(SPOTD_SOURCE_DIR) + "/tests/data/models/qwen3");
    tokenizer_ = *text::Tokenizer::Create(source_->tokenizer_data());
    std::string text;
    for (int i = 0; i < 300; ++i)
      text += "Line " + std::to_string(i) + " of a text about nothing.\n";
    tokens_ = *tokenizer_->Encode(text, {});
  }
  absl::StatusOr<std::vector<QuestionDocument>> Make(int32_t length, int32_t count,
                                                     uint64_t seed = 1) const {
    const std::vector<std::span<const int32_t>> documents = {tokens_};
    return MakeQuestionDocuments(*source_, *tokenizer_, documents, length, count, seed);
  }
  std::string Text(std::span<const int32_t> tokens) const {
    return *tokenizer_->Decode(tokens, true);
  }
  std::string Answer(const QuestionDocument& document) const {
    return Text(std::span(document.tokens).last(static_cast<size_t>(document.answer_tokens)));
  }

  std::unique_ptr<model::ModelSource> source_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::vector<int32_t> tokens_;
};

TEST_F(QuestionDocumentsTest, TheAnswerStandsInTheTextAndAtItsEnd) {
  const auto made = Make(kLength, 6);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(made->size(), 6u);
  for (const QuestionDocument& document : *made) {
    EXPECT_LE(document.tokens.size(), static_cast<size_t>(kLength));
    EXPECT_GT(document.tokens.size(), static_cast<size_t>(kLength) * 7 / 10);
    const std::string text = Text(document.tokens);
    const std::string answer = Answer(document);
    EXPECT_TRUE(text.starts_with("<|im_start|>user\nHere is a text."));
    EXPECT_THAT(text, HasSubstr("of a text about nothing."));
    EXPECT_TRUE(text.ends_with(answer));
    // Its first word, a number or a name, stands in the text before the question.
    const std::string word = answer.substr(1, answer.find_first_of(",.") - 1);
    EXPECT_LT(text.find(word), text.rfind("<|im_end|>")) << answer;
  }
  EXPECT_THAT(Text((*made)[0].tokens), HasSubstr("opens the locker of"));
  EXPECT_THAT(Text((*made)[1].tokens), HasSubstr("Which three orders"));
  EXPECT_THAT(Text((*made)[2].tokens), HasSubstr("called?"));
}

TEST_F(QuestionDocumentsTest, DepthsAreSpread) {
  const auto made = *Make(kLength, 12);
  const auto place = [&](size_t i) {
    const std::string text = Text(made[i].tokens);
    const std::string answer = Answer(made[i]);
    return static_cast<double>(text.find(answer.substr(1, answer.find_first_of(",.") - 1))) /
           static_cast<double>(text.size());
  };
  EXPECT_LT(place(0), 0.2);
  EXPECT_GT(place(11), 0.7);
}

TEST_F(QuestionDocumentsTest, ASeedFixesEveryToken) {
  const auto once = *Make(kLength, 3);
  const auto again = *Make(kLength, 3);
  const auto other = *Make(kLength, 3, 2);
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(once[i].tokens, again[i].tokens);
  EXPECT_NE(once[0].tokens, other[0].tokens);
}

TEST_F(QuestionDocumentsTest, RefusesLinesThatDoNotFitTheContext) {
  std::string line;
  for (int i = 0; i < 3000; ++i) line += "and so on ";
  tokens_ = *tokenizer_->Encode(line, {});
  const auto made = Make(kLength, 2);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("too long to fill"));
}

TEST_F(QuestionDocumentsTest, RefusesAContextWithoutRoom) {
  const auto made = Make(300, 2);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("no room"));
  EXPECT_TRUE(Make(300, 0)->empty());
}

}  // namespace
}  // namespace spotd::distill
