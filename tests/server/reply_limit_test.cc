#include "server/reply_limit.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/engine/errors.h"
#include "runtime/engine/request_check.h"
#include "server/replies.h"
#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

constexpr int32_t kContext = 65536;

// The largest reply with so many tokens of each candidate.
v1::CompleteResponse Largest(TestServer* server, int32_t candidates, int32_t tokens,
                             int32_t top_logprobs) {
  const text::Tokenizer& tokenizer = server->engine().tokenizer();
  engine::TokenEvent event;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.TokenBytes(id).size() > event.text.size()) event.text = tokenizer.TokenBytes(id);
  }
  event.text = std::max(event.text, std::string("\xEF\xBF\xBD"),
                        [](const auto& a, const auto& b) { return a.size() < b.size(); });
  event.token = server->engine().model_config().vocab - 1;
  event.logprob = -1.5f;
  event.top.assign(static_cast<size_t>(top_logprobs), {event.token, -1.5f});
  v1::CompleteResponse reply;
  for (int32_t i = 0; i < tokens; ++i) server::AddToken(event, reply.mutable_completion());
  engine::GenerateResult result;
  result.stop_string = std::string(engine::kMaxStopStringBytes, 's');
  result.seed = std::numeric_limits<uint64_t>::max();
  result.sparsity.top_blocks.assign(engine::kMaxReportBlocks, {1 << 26, 0.5f});
  for (int32_t i = 1; i < candidates; ++i) {
    v1::TokenDelta* more = reply.add_more_completions();
    *more = reply.completion();
    more->set_candidate(i);
    result.candidates.push_back({engine::FinishReason::kStopString, result.stop_string, 1 << 30,
                                 std::numeric_limits<uint64_t>::max()});
  }
  *reply.mutable_result() = server::ToProto(result, 16, false);
  return reply;
}

TEST(CompleteLimitTest, WhatFitsIsNoMoreThanAMessageAndNotMuchLess) {
  TestServer server(kContext);
  const server::CompleteLimit limit(server.engine());
  for (const int32_t candidates : {1, 3, 16}) {
    for (const int32_t top_logprobs : {0, 1, 20}) {
      SCOPED_TRACE(::testing::Message() << candidates << " " << top_logprobs);
      const int32_t tokens = limit.Tokens(candidates, top_logprobs);
      const size_t bytes = Largest(&server, candidates, tokens, top_logprobs).ByteSizeLong();
      EXPECT_LE(bytes, server::kMaxMessageBytes);
      EXPECT_GT(bytes, server::kMaxMessageBytes / 10 * 9);
    }
  }
}

TEST(CompleteLimitTest, BoundsWhatWasLeftOpenAndRefusesWhatWasAsked) {
  TestServer server(kContext);
  const server::CompleteLimit limit(server.engine());
  engine::GenerateRequest request;
  request.candidates = 16;
  request.top_logprobs = 20;
  const int32_t fit = limit.Tokens(16, 20);
  ASSERT_LT(fit, kContext);
  ASSERT_TRUE(limit.Fit(&request).ok());
  EXPECT_EQ(request.sampling.max_tokens, fit);
  ASSERT_TRUE(limit.Fit(&request).ok());
  request.sampling.max_tokens = fit + 1;
  const absl::Status status = limit.Fit(&request);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  const engine::ErrorDetails details = engine::GetErrorDetails(status);
  EXPECT_EQ(details.reason, "REPLY_TOO_LONG");
  EXPECT_EQ(details.field, "sampling.max_tokens");
  EXPECT_EQ(details.metadata.at("limit"), std::to_string(fit));

  engine::GenerateRequest plain;
  ASSERT_TRUE(limit.Fit(&plain).ok());
  EXPECT_EQ(plain.sampling.max_tokens, 0) << "the context ends it first";
  plain.sampling.max_tokens = std::numeric_limits<int32_t>::max();
  EXPECT_TRUE(limit.Fit(&plain).ok());
}

TEST(CompleteLimitTest, AUnaryReplyThatIsTooLongSaysSo) {
  TestServer server;
  v1::DetokenizeRequest request;
  request.mutable_ids()->Resize(1 << 20, 2);
  request.set_keep_special(true);
  grpc::ClientContext context;
  v1::DetokenizeResponse response;
  const grpc::Status status = server.models().Detokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::OUT_OF_RANGE);
  EXPECT_EQ(InfoOf(status).reason(), "REPLY_TOO_LONG");
}

}  // namespace
}  // namespace spotd::testing
