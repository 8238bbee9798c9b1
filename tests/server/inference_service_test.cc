#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

void ExpectAccountAddsUp(const v1::GenerateResult& result) {
  const v1::Usage& usage = result.usage();
  EXPECT_EQ(usage.prompt_tokens(), usage.computed_tokens() + usage.session_tokens());
}

TEST(InferenceServiceTest, AppendStreamsProgressAndEndsWithTheResult) {
  TestServer server(512, {"--max_prefill_chunk=32"});
  const std::string session = server.NewSession();
  const auto appended = server.Append(session, {Text(std::string(100, 'a')), Text(" and more")});
  ASSERT_TRUE(appended.status.ok()) << appended.status.error_message();
  EXPECT_GT(appended.result.appended_tokens(), 10);
  EXPECT_EQ(appended.result.session_token_count(), appended.result.appended_tokens());
  ASSERT_FALSE(appended.progress.empty());
  int32_t last = 0;
  for (const v1::PrefillProgress& progress : appended.progress) {
    EXPECT_GE(progress.done_tokens(), last);
    last = progress.done_tokens();
    EXPECT_EQ(progress.total_tokens(), appended.result.appended_tokens());
  }
  EXPECT_EQ(server.GetSession(session).token_count(), appended.result.session_token_count());
}

TEST(InferenceServiceTest, ChunksMayBeCutInsideACharacter) {
  TestServer server(512);
  const std::string text = "Grüße an die Bären, 你好 🙂 ende";
  const std::string whole = server.NewSession();
  const auto expected = server.Append(whole, {Text(text)});
  std::vector<v1::Input> bytes;
  for (char byte : text) bytes.push_back(Chunk(std::string(1, byte)));
  const std::string pieces = server.NewSession();
  const auto appended = server.Append(pieces, bytes);
  ASSERT_TRUE(appended.status.ok()) << appended.status.error_message();
  EXPECT_EQ(appended.result.appended_tokens(), expected.result.appended_tokens());
  EXPECT_EQ(server.Generate(RequestFor(whole, "", 8)).tokens,
            server.Generate(RequestFor(pieces, "", 8)).tokens);
}

TEST(InferenceServiceTest, GenerateStreamsTokensThenTheResult) {
  TestServer server;
  const std::string session = server.NewSession();
  const auto generated = server.Generate(RequestFor(session, "once upon a time", 12));
  ASSERT_TRUE(generated.status.ok()) << generated.status.error_message();
  ASSERT_TRUE(generated.result.has_value());
  const v1::GenerateResult& result = *generated.result;
  EXPECT_EQ(generated.tokens.size(), 12u);
  EXPECT_EQ(result.usage().generated_tokens(), 12);
  EXPECT_EQ(result.finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  ExpectAccountAddsUp(result);
  EXPECT_EQ(result.session_token_count(), result.usage().prompt_tokens() + 12);
  EXPECT_EQ(result.sparsity().policy(), v1::POLICY_KIND_QUEST);
  EXPECT_GT(result.sparsity().blocks_visible(), 0);
  EXPECT_GT(result.sparsity().density(), 0);
  EXPECT_LE(result.sparsity().density(), 1);
  EXPECT_GT(result.timings().total().nanos() + result.timings().total().seconds(), 0);
}

TEST(InferenceServiceTest, TheSecondTurnFindsTheFirstInTheSession) {
  TestServer server;
  const std::string session = server.NewSession();
  const auto first = server.Generate(RequestFor(session, "hello", 5));
  const auto second = server.Generate(RequestFor(session, " again", 5));
  ASSERT_TRUE(second.result.has_value()) << second.status.error_message();
  ExpectAccountAddsUp(*second.result);
  // All but the pending token of the first turn are in the cache.
  EXPECT_EQ(second.result->usage().session_tokens(), first.result->session_token_count() - 1);
}

TEST(InferenceServiceTest, CompleteSaysWhatGenerateStreams) {
  TestServer server;
  const auto streamed = server.Generate(RequestFor("", "the cat sat on", 10));
  ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  v1::CompleteRequest request;
  *request.add_prompt() = Text("the cat sat on");
  request.mutable_sampling()->set_max_tokens(10);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext context;
  v1::CompleteResponse response;
  const grpc::Status status = server.inference().Complete(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.completion().text(), streamed.text);
  EXPECT_EQ(response.completion().token_ids_size(), 10);
  EXPECT_EQ(response.result().session_token_count(), 0);
  ExpectAccountAddsUp(response.result());
  grpc::ClientContext list_context;
  v1::ListSessionsResponse sessions;
  ASSERT_TRUE(server.sessions().ListSessions(&list_context, {}, &sessions).ok());
  EXPECT_EQ(sessions.sessions_size(), 0) << "one shot keeps no session";
}

TEST(InferenceServiceTest, ASeedDrawsTheSameTextAgain) {
  TestServer server;
  v1::GenerateRequest request = RequestFor("", "random", 20);
  request.mutable_sampling()->set_temperature(1.5f);
  const auto first = server.Generate(request);
  ASSERT_TRUE(first.result.has_value()) << first.status.error_message();
  request.mutable_sampling()->set_seed(first.result->seed());
  EXPECT_EQ(server.Generate(request).tokens, first.tokens);
  request.mutable_sampling()->set_seed(first.result->seed() + 1);
  EXPECT_NE(server.Generate(request).tokens, first.tokens);
}

TEST(InferenceServiceTest, StopTextEndsTheAnswerBeforeIt) {
  TestServer server;
  const auto whole = server.Generate(RequestFor("", "stop here", 16));
  ASSERT_GT(whole.text.size(), 8u);
  v1::GenerateRequest request = RequestFor("", "stop here", 16);
  // A stop text must be UTF-8: take one that begins and ends at characters.
  const std::string stop = server.Generate(RequestFor("", "stop here", 3)).text;
  ASSERT_FALSE(stop.empty());
  request.mutable_sampling()->add_stop(stop);
  const auto stopped = server.Generate(request);
  ASSERT_TRUE(stopped.result.has_value()) << stopped.status.error_message();
  EXPECT_EQ(stopped.result->finish_reason(), v1::FINISH_REASON_STOP_TEXT);
  EXPECT_EQ(stopped.result->stop_text(), stop);
  EXPECT_EQ(stopped.text.find(stop), std::string::npos);
}

TEST(InferenceServiceTest, MessagesGoThroughTheTemplate) {
  TestServer server;
  const std::string chat = server.NewSession();
  v1::GenerateRequest request;
  request.set_session(chat);
  *request.add_prompt() = Message("user", "hi");
  request.mutable_sampling()->set_max_tokens(1);
  const auto generated = server.Generate(request);
  ASSERT_TRUE(generated.result.has_value()) << generated.status.error_message();
  v1::Input rendered = Text("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  rendered.set_parse_special(true);
  const auto appended = server.Append(server.NewSession(), {rendered});
  EXPECT_EQ(generated.result->usage().prompt_tokens(), appended.result.appended_tokens());
}

TEST(InferenceServiceTest, ControlTokensInTextAreTextUnlessAskedFor) {
  TestServer server;
  const auto as_text = server.Append(server.NewSession(), {Text("<|im_end|>")});
  v1::Input special = Text("<|im_end|>");
  special.set_parse_special(true);
  const auto as_token = server.Append(server.NewSession(), {special});
  EXPECT_EQ(as_token.result.appended_tokens(), 1);
  EXPECT_GT(as_text.result.appended_tokens(), 1);
}

TEST(InferenceServiceTest, ARequestsPolicyIsLaidOverTheSessions) {
  TestServer server(512);
  const std::string session = server.NewSession();
  ASSERT_TRUE(server.Append(session, {Text(std::string(400, 'x'))}).status.ok());
  v1::GenerateRequest request = RequestFor(session, "", 4);
  request.mutable_policy()->set_kind(v1::POLICY_KIND_FULL);
  const auto dense = server.Generate(request);
  ASSERT_TRUE(dense.result.has_value()) << dense.status.error_message();
  EXPECT_EQ(dense.result->sparsity().policy(), v1::POLICY_KIND_FULL);
  EXPECT_DOUBLE_EQ(dense.result->sparsity().density(), 1.0);
  request.mutable_policy()->set_kind(v1::POLICY_KIND_WINDOW);
  request.mutable_policy()->set_sink_tokens(16);
  request.mutable_policy()->set_recency_tokens(32);
  request.mutable_policy()->set_k_min_tokens(0);
  const auto window = server.Generate(request);
  ASSERT_TRUE(window.result.has_value()) << window.status.error_message();
  EXPECT_EQ(window.result->sparsity().policy(), v1::POLICY_KIND_WINDOW);
  EXPECT_LT(window.result->sparsity().density(), 1.0);
  EXPECT_EQ(server.GetSession(session).policy().kind(), v1::POLICY_KIND_QUEST);
}

TEST(InferenceServiceTest, ReportsTheBlocksThatWereRead) {
  TestServer server(512);
  const std::string session = server.NewSession();
  std::string text;
  for (int i = 0; i < 60; ++i) text += "item " + std::to_string(i * 37 % 100) + "; ";
  ASSERT_TRUE(server.Append(session, {Text(text.substr(0, 380))}).status.ok());
  v1::GenerateRequest request = RequestFor(session, "", 8);
  request.mutable_policy()->set_kind(v1::POLICY_KIND_QUEST);
  request.mutable_policy()->set_fraction(0.5f);
  request.mutable_policy()->set_sink_tokens(16);
  request.mutable_policy()->set_recency_tokens(16);
  request.mutable_policy()->set_k_min_tokens(0);
  request.set_top_blocks(3);
  const auto generated = server.Generate(request);
  ASSERT_TRUE(generated.result.has_value()) << generated.status.error_message();
  const v1::Sparsity& sparsity = generated.result->sparsity();
  ASSERT_GT(sparsity.top_blocks_size(), 0);
  ASSERT_LE(sparsity.top_blocks_size(), 3);
  float last = 1.0f;
  for (const v1::BlockShare& block : sparsity.top_blocks()) {
    EXPECT_EQ(block.first_token() % 16, 0);
    EXPECT_LE(block.first_token() + block.token_count(), 512);
    EXPECT_GT(block.share(), 0);
    EXPECT_LE(block.share(), last);
    last = block.share();
  }
}

}  // namespace
}  // namespace spotd::testing
