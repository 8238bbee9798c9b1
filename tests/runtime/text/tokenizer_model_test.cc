// The tokenizers of real checkpoints, read from their GGUF files, against the reference library on
// the same text.
#include <gtest/gtest.h>

#include <cstdlib>

#include "runtime/model/model_source.h"
#include "runtime/text/chat_template.h"
#include "tests/runtime/text/test_files.h"
#include "tests/runtime/text/tokenizer_goldens.h"

namespace spotd::text {
namespace {

struct Checkpoint {
  const char* name;      // in tokenizer_goldens.json
  const char* variable;  // of the environment, with the path of the file
  const char* chat_template;
};

class TokenizerModelTest : public testing::TestWithParam<Checkpoint> {
 protected:
  void SetUp() override {
    const char* path = std::getenv(GetParam().variable);
    if (path == nullptr) GTEST_SKIP() << GetParam().variable << " is not set";
    auto source = model::OpenModel(path);
    ASSERT_TRUE(source.ok()) << source.status();
    chat_template_ = (*source)->tokenizer_data().chat_template;
    auto tokenizer = Tokenizer::Create((*source)->tokenizer_data());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::string chat_template_;
};

TEST_P(TokenizerModelTest, EncodesAndDecodesAsTheReference) {
  const nlohmann::json goldens = TokenizerGoldens(GetParam().name);
  ExpectSameSamples(*tokenizer_, goldens);
  ExpectSameMixedText(*tokenizer_, goldens);
  ExpectSameRandomStrings(*tokenizer_, goldens);
  ExpectSameDecodedText(*tokenizer_, goldens);
}

TEST_P(TokenizerModelTest, CarriesTheChatTemplateThatTheGoldensRender) {
  EXPECT_EQ(chat_template_, ReadGolden(GetParam().chat_template));
  EXPECT_TRUE(ChatTemplate::Parse(chat_template_).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, TokenizerModelTest,
    testing::Values(Checkpoint{"smollm2", "SPOTD_TEST_MODEL", "chat/smollm2.jinja"},
                    Checkpoint{"qwen25", "SPOTD_TEST_MODEL_QWEN", "chat/qwen25.jinja"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace spotd::text
