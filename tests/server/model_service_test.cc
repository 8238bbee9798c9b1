#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

class ModelServiceTest : public ::testing::Test {
 protected:
  std::vector<int32_t> Tokenize(const std::string& text, bool parse_special = false) {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text(text);
    request.set_parse_special(parse_special);
    v1::TokenizeResponse response;
    const grpc::Status status = server_.models().Tokenize(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.ids().begin(), response.ids().end()};
  }

  v1::DetokenizeResponse Detokenize(const std::vector<int32_t>& ids, bool keep_special = false) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.mutable_ids()->Add(ids.begin(), ids.end());
    request.set_keep_special(keep_special);
    v1::DetokenizeResponse response;
    const grpc::Status status = server_.models().Detokenize(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  TestServer server_;
};

TEST_F(ModelServiceTest, DescribesTheModel) {
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(server_.models().ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  const v1::Model& model = models.models(0);
  EXPECT_EQ(model.name(), "models/qwen3");
  EXPECT_EQ(model.architecture(), "qwen3");
  EXPECT_EQ(model.layer_count(), 2);
  EXPECT_EQ(model.query_head_count(), 4);
  EXPECT_EQ(model.kv_head_count(), 2);
  EXPECT_EQ(model.head_size(), 32);
  EXPECT_EQ(model.vocab_size(), 300);
  EXPECT_EQ(model.context_length(), 128);
  EXPECT_EQ(model.block_token_count(), 16);
  EXPECT_EQ(model.selector_key_format(), v1::SELECTOR_KEY_FORMAT_UNSPECIFIED);
  EXPECT_EQ(model.default_policy().kind(), v1::POLICY_KIND_QUEST);
  EXPECT_EQ(model.supported_policies_size(), 4);
  EXPECT_FALSE(model.backend().empty());

  grpc::ClientContext get_context;
  v1::GetModelRequest request;
  request.set_name(model.name());
  v1::Model same;
  ASSERT_TRUE(server_.models().GetModel(&get_context, request, &same).ok());
  EXPECT_EQ(same.SerializeAsString(), model.SerializeAsString());
}

TEST_F(ModelServiceTest, TextSurvivesTheRoundTrip) {
  const std::string text = "Grüße, 你好 🙂\n  tabs\tand  spaces";
  const v1::DetokenizeResponse response = Detokenize(Tokenize(text));
  EXPECT_EQ(response.text(), text);
  EXPECT_EQ(response.utf8(), text);
}

TEST_F(ModelServiceTest, HalfACharacterIsReplacedInTextAndExactInBytes) {
  std::vector<int32_t> ids = Tokenize("🙂");
  ASSERT_GT(ids.size(), 1u);
  ids.pop_back();
  const v1::DetokenizeResponse response = Detokenize(ids);
  EXPECT_EQ(response.text(), "\xef\xbf\xbd");
  EXPECT_EQ(response.utf8(), std::string("\xf0\x9f\x99\x82").substr(0, response.utf8().size()));
}

TEST_F(ModelServiceTest, ControlTokensAreParsedAndShownOnlyWhenAskedFor) {
  EXPECT_EQ(Tokenize("<|im_end|>", true), std::vector<int32_t>({2}));
  EXPECT_GT(Tokenize("<|im_end|>").size(), 1u);
  EXPECT_EQ(Detokenize({2}).text(), "");
  EXPECT_EQ(Detokenize({2}, true).text(), "<|im_end|>");
}

}  // namespace
}  // namespace spotd::testing
