#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::Each;
using ::testing::SizeIs;

class EngineGenerateTest : public ::testing::Test {
 protected:
  std::unique_ptr<Engine> engine_ = MakeTinyEngine();
};

TEST_F(EngineGenerateTest, GreedyOneShotIsDeterministicAndKeepsNothing) {
  auto [sink, result] = Complete(engine_.get(), Ask("", Words(100), 20));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(sink->tokens(), SizeIs(20));
  EXPECT_EQ(result->finish, FinishReason::kMaxTokens);
  EXPECT_EQ(result->usage.prompt_tokens, 100);
  EXPECT_EQ(result->usage.session_tokens, 0);
  EXPECT_EQ(result->session_tokens_after, 0);
  EXPECT_EQ(Tokens(engine_.get(), Ask("", Words(100), 20)), sink->tokens());
  EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 0);
  EXPECT_THAT(sink->logprobs(), Each(::testing::Le(0.0f)));
}

TEST_F(EngineGenerateTest, TheReplyContinuesTheSession) {
  const std::string id = NewSession(engine_.get());
  auto [first, result] = Complete(engine_.get(), Ask(id, Words(50), 10));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->session_tokens_after, 60);
  auto [second, next] = Complete(engine_.get(), Ask(id, "", 10));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->usage.prompt_tokens, 60);
  EXPECT_EQ(next->usage.session_tokens, 59);  // all but the pending token
  EXPECT_EQ(next->session_tokens_after, 70);

  std::vector<int32_t> both = first->tokens();
  for (const int32_t token : second->tokens()) both.push_back(token);
  EXPECT_EQ(Tokens(engine_.get(), Ask("", Words(50), 20)), both);
}

TEST_F(EngineGenerateTest, AppendThenGenerateEqualsOnePrompt) {
  const std::string id = NewSession(engine_.get());
  const std::string text = Words(150);
  const auto appended = AppendText(engine_.get(), id, text.substr(0, 97));
  ASSERT_TRUE(appended.ok()) << appended.status();
  EXPECT_EQ(appended->appended_tokens, 97);
  EXPECT_EQ(appended->session_tokens_after, 97);
  ASSERT_TRUE(AppendText(engine_.get(), id, text.substr(97, 1)).ok());
  auto [sink, result] = Complete(engine_.get(), Ask(id, text.substr(98), 12));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->usage.session_tokens, 97);
  EXPECT_EQ(result->usage.computed_tokens, 53);
  EXPECT_EQ(sink->tokens(), Tokens(engine_.get(), Ask("", text, 12)));
}

TEST_F(EngineGenerateTest, ProgressCountsEachChunk) {
  const std::string id = NewSession(engine_.get());
  std::mutex mutex;
  std::vector<std::pair<int32_t, int32_t>> progress;
  auto appending =
      StartAppend(engine_.get(), id, {TextInput{Words(100)}}, [&](int done, int total) {
        const std::lock_guard lock(mutex);
        progress.emplace_back(done, total);
      });
  ASSERT_TRUE(appending.Wait().ok());
  EXPECT_THAT(progress, ::testing::ElementsAre(std::pair(32, 100), std::pair(64, 100),
                                               std::pair(96, 100), std::pair(100, 100)));
}

TEST_F(EngineGenerateTest, SeedsDrawTheSameTextAgain) {
  GenerateRequest request = Ask("", Words(40), 24);
  request.sampling.params.temperature = 1.5f;
  auto [sink, result] = Complete(engine_.get(), request);
  ASSERT_TRUE(result.ok());
  auto [other, other_result] = Complete(engine_.get(), request);
  EXPECT_NE(other_result->seed, result->seed);
  EXPECT_NE(other->tokens(), sink->tokens());
  request.sampling.seed = result->seed;
  auto [again, again_result] = Complete(engine_.get(), request);
  EXPECT_EQ(again->tokens(), sink->tokens());
  EXPECT_EQ(again->logprobs(), sink->logprobs());
}

TEST_F(EngineGenerateTest, StopTokensEndTheReply) {
  const std::vector<int32_t> tokens = Tokens(engine_.get(), Ask("", Words(60), 20));
  GenerateRequest request = Ask("", Words(60), 20);
  request.sampling.stop_tokens = {tokens[7]};
  const auto first = std::find(tokens.begin(), tokens.end(), tokens[7]) - tokens.begin();
  auto [sink, result] = Complete(engine_.get(), request);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kStopToken);
  EXPECT_THAT(sink->tokens(), SizeIs(first + 1));
}

TEST_F(EngineGenerateTest, EosEndsTheReplyUnlessIgnored) {
  // Some seed of a hot draw comes upon the end-of-sequence token.
  for (uint64_t seed = 0; seed < 200; ++seed) {
    GenerateRequest request = Ask("", Words(30), 64);
    request.sampling.params.temperature = 100;
    request.sampling.seed = seed;
    const std::vector<int32_t> tokens = Tokens(engine_.get(), request);
    const auto eos = std::find(tokens.begin(), tokens.end(), testing::kImEnd);
    if (eos == tokens.end()) continue;
    request.sampling.ignore_eos = false;
    auto [sink, result] = Complete(engine_.get(), request);
    EXPECT_EQ(result->finish, FinishReason::kStopToken);
    EXPECT_EQ(sink->tokens(), std::vector<int32_t>(tokens.begin(), eos + 1));
    return;
  }
  FAIL() << "no draw came upon the end-of-sequence token";
}

TEST_F(EngineGenerateTest, StopStringsAreFoundAcrossTokensAndStayInTheSession) {
  GenerateRequest request = Ask("", Words(60), 60);
  request.sampling.params.temperature = 3;
  request.sampling.seed = 11;
  // A stop string of two tokens: two neighbouring one-byte characters of the text.
  auto [whole, ignored] = Complete(engine_.get(), request);
  const std::string text = whole->text();
  size_t at = 5;
  while (at + 1 < text.size() && ((text[at] & 0x80) != 0 || (text[at + 1] & 0x80) != 0)) ++at;
  ASSERT_LT(at + 1, text.size());
  const std::string stop = text.substr(at, 2);

  request.session_id = NewSession(engine_.get());
  request.sampling.stop_strings = {stop};
  auto [sink, result] = Complete(engine_.get(), request);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kStopString);
  EXPECT_EQ(result->stop_string, stop);
  EXPECT_EQ(sink->text(), text.substr(0, text.find(stop)));
  EXPECT_EQ(result->session_tokens_after, 60 + static_cast<int32_t>(sink->tokens().size()));
}

TEST_F(EngineGenerateTest, AFullContextEndsTheReply) {
  TinyEngineOptions options;
  options.limits.max_context = 128;
  auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSession(engine.get());
  auto [sink, result] = Complete(engine.get(), Ask(id, Words(120), 0));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kContextFull);
  EXPECT_EQ(result->session_tokens_after, 128);
  auto [again, refused] = Complete(engine.get(), Ask(id, "", 1));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Reason(refused.status()), reason::kContextOverflow);
  EXPECT_EQ(GetErrorDetails(refused.status()).metadata.at("limit"), "128");
  EXPECT_EQ(GetErrorDetails(refused.status()).metadata.at("got"), "129");
  // The session still works.
  ASSERT_TRUE(engine->RewindSession(id, 100).ok());
  EXPECT_THAT(Tokens(engine.get(), Ask(id, "", 5)), SizeIs(5));
}

TEST_F(EngineGenerateTest, PenaltiesChangeTheText) {
  const std::vector<int32_t> plain = Tokens(engine_.get(), Ask("", Words(60), 40));
  GenerateRequest request = Ask("", Words(60), 40);
  request.sampling.params.presence_penalty = 100;
  const std::vector<int32_t> spread = Tokens(engine_.get(), request);
  EXPECT_THAT(std::set<int32_t>(spread.begin(), spread.end()), SizeIs(40)) << "a token came twice";
  request.sampling.params.presence_penalty = 0;
  request.sampling.params.repetition_penalty = 50;
  EXPECT_NE(Tokens(engine_.get(), request), plain);
}

TEST_F(EngineGenerateTest, SparsityIsReportedAndCounted) {
  GenerateRequest request = Ask("", Words(1500), 8);
  request.policy = model::Policy{.kind = model::PolicyKind::kQuest,
                                 .fraction = 0.2f,
                                 .sink_tokens = 16,
                                 .recency_tokens = 32,
                                 .k_min_tokens = 0,
                                 .dense_below_tokens = 0};
  request.report_blocks = 3;
  auto [sink, result] = Complete(engine_.get(), request);
  ASSERT_TRUE(result.ok()) << result.status();
  const RequestSparsity& sparsity = result->sparsity;
  EXPECT_EQ(result->policy, model::PolicyKind::kQuest);
  EXPECT_EQ(sparsity.steps, 8);
  EXPECT_EQ(sparsity.dense_steps, 0);
  const double density = static_cast<double>(sparsity.sum.blocks_attended) /
                         static_cast<double>(sparsity.sum.blocks_visible);
  EXPECT_NEAR(density, 0.2, 0.05);
  EXPECT_LT(sparsity.sum.bytes_read, sparsity.sum.bytes_dense);
  ASSERT_THAT(sparsity.top_blocks, SizeIs(3));
  for (const auto& [block, share] : sparsity.top_blocks) {
    EXPECT_GE(block, 1);
    EXPECT_LT(block, (1508 - 32) / 16 + 1);
    EXPECT_GT(share, 0);
    EXPECT_LE(share, 1);
  }
  const PolicyMetrics& counts = engine_->metrics().by_policy[static_cast<int>(result->policy)];
  EXPECT_EQ(counts.kv_blocks_attended.load(), static_cast<uint64_t>(sparsity.sum.blocks_attended));
  EXPECT_EQ(counts.kv_bytes_dense_equivalent.load(),
            static_cast<uint64_t>(sparsity.sum.bytes_dense));
  EXPECT_GT(counts.request_attended_fraction.sum(), 0);
}

TEST_F(EngineGenerateTest, DenseStepsSayWhy) {
  ASSERT_TRUE(Complete(engine_.get(), Ask("", Words(50), 4)).second.ok());
  GenerateRequest request = Ask("", Words(50), 5);
  request.policy = model::Policy{.kind = model::PolicyKind::kWindow};  // dense below 1024 tokens
  auto [sink, result] = Complete(engine_.get(), request);
  EXPECT_EQ(result->sparsity.dense_steps, 5);
  EXPECT_EQ(result->sparsity.mean_covered_mass, 1.0);
  auto& by_policy = engine_->metrics().by_policy;
  EXPECT_EQ(by_policy[static_cast<int>(model::PolicyKind::kFull)].dense_steps_requested.load(), 4u);
  EXPECT_EQ(
      by_policy[static_cast<int>(model::PolicyKind::kWindow)].dense_steps_short_context.load(), 5u);
}

TEST_F(EngineGenerateTest, TokensAreCountedOnce) {
  const std::string id = NewSession(engine_.get());
  ASSERT_TRUE(AppendText(engine_.get(), id, Words(70)).ok());
  ASSERT_TRUE(Complete(engine_.get(), Ask(id, Words(30), 9)).second.ok());
  const Metrics& metrics = engine_->metrics();
  EXPECT_EQ(metrics.prompt_tokens_computed.load(), 100u);
  EXPECT_EQ(metrics.prompt_tokens_session.load(), 69u);
  EXPECT_EQ(metrics.generation_tokens.load(), 9u);
  EXPECT_EQ(metrics.session_tokens.load(), 109);
  EXPECT_EQ(metrics.requests_running.load(), 0);
  EXPECT_EQ(metrics.requests_waiting.load(), 0);
  const auto count = [](const Histogram& histogram) {
    uint64_t total = 0;
    for (size_t i = 0; i <= histogram.upper_bounds().size(); ++i) total += histogram.bucket(i);
    return total;
  };
  EXPECT_EQ(count(metrics.time_to_first_token), 1u);
  EXPECT_EQ(count(metrics.inter_token_latency), 8u);
  EXPECT_EQ(count(metrics.e2e_request_latency), 1u);
  EXPECT_EQ(count(metrics.request_queue_time), 2u);
  EXPECT_EQ(count(metrics.request_prefill_time), 2u);
  EXPECT_EQ(metrics.request_prompt_tokens.sum(), 100);
  EXPECT_EQ(metrics.request_generation_tokens.sum(), 9);
}

TEST_F(EngineGenerateTest, TimingsAddUp) {
  auto [sink, result] = Complete(engine_.get(), Ask("", Words(200), 10));
  const Timings& timings = result->timings;
  EXPECT_GE(timings.queue, 0);
  EXPECT_GT(timings.prefill, 0);
  EXPECT_GE(timings.ttft, timings.queue + timings.prefill);
  EXPECT_GT(timings.decode, 0);
  EXPECT_GE(timings.total, timings.ttft + timings.decode);
}

TEST_F(EngineGenerateTest, BadInputGetsAReasonAndAField) {
  const std::string id = NewSession(engine_.get());
  GenerateRequest plain = Ask(id, "x", 1);
  const struct {
    absl::StatusCode code;
    const char* reason;
    const char* field;
    std::function<void(GenerateRequest*)> change;
  } kRows[] = {
      {absl::StatusCode::kNotFound, reason::kSessionNotFound, "",
       [](GenerateRequest* r) { r->session_id = "nobody"; }},
      {absl::StatusCode::kInvalidArgument, reason::kEmptyPrompt, "prompt",
       [](GenerateRequest* r) { r->prompt.clear(); }},
      {absl::StatusCode::kInvalidArgument, reason::kEmptyPrompt, "prompt",
       [](GenerateRequest* r) { r->prompt = {TextInput{""}}; }},
      {absl::StatusCode::kInvalidArgument, reason::kEmptyPrompt, "prompt[0].messages",
       [](GenerateRequest* r) { r->prompt = {MessageInput{}}; }},
      {absl::StatusCode::kInvalidArgument, reason::kTokenOutOfRange, "prompt[1].tokens",
       [](GenerateRequest* r) {
         r->prompt = {TextInput{"x"}, TokenInput{testing::kTinyVocab}};
       }},
      {absl::StatusCode::kInvalidArgument, reason::kTokenOutOfRange, "prompt[0].tokens",
       [](GenerateRequest* r) { r->prompt = {TokenInput{-1}}; }},
      {absl::StatusCode::kInvalidArgument, reason::kInvalidUtf8, "prompt[0].text",
       [](GenerateRequest* r) { r->prompt = {TextInput{"a\xff"}}; }},
      {absl::StatusCode::kInvalidArgument, reason::kInvalidUtf8, "prompt[0].messages.content",
       [](GenerateRequest* r) {
         r->prompt = {MessageInput{{"user", "\xc3"}}};
       }},
      {absl::StatusCode::kInvalidArgument, reason::kTemplateRefused, "prompt[0].messages",
       [](GenerateRequest* r) {
         r->prompt = {MessageInput{{"refused", "x"}}};
       }},
      {absl::StatusCode::kInvalidArgument, reason::kInvalidSampling, "sampling.top_p",
       [](GenerateRequest* r) { r->sampling.params.top_p = std::nanf(""); }},
      {absl::StatusCode::kInvalidArgument, reason::kInvalidPolicy, "policy.fraction",
       [](GenerateRequest* r) {
         r->policy = model::Policy{.kind = model::PolicyKind::kQuest, .fraction = 2};
       }},
      {absl::StatusCode::kInvalidArgument, reason::kInvalidField, "top_blocks",
       [](GenerateRequest* r) { r->report_blocks = -1; }},
      {absl::StatusCode::kOutOfRange, reason::kContextOverflow, "",
       [](GenerateRequest* r) { r->prompt = {TextInput{Words(2048)}}; }},
      {absl::StatusCode::kOutOfRange, reason::kPromptTooLong, "",
       [](GenerateRequest* r) { r->prompt = {TextInput{std::string((16u << 20) + 1, 'x')}}; }},
  };
  for (const auto& row : kRows) {
    GenerateRequest request = plain;
    row.change(&request);
    auto [sink, result] = Complete(engine_.get(), request);
    EXPECT_EQ(result.status().code(), row.code) << result.status();
    EXPECT_EQ(Reason(result.status()), row.reason) << result.status();
    EXPECT_EQ(GetErrorDetails(result.status()).field, row.field) << result.status();
    EXPECT_EQ(engine_->GetSession(id)->tokens, 0);
    EXPECT_FALSE(engine_->GetSession(id)->busy);
  }
  EXPECT_THAT(Tokens(engine_.get(), plain), SizeIs(1));
  EXPECT_TRUE(BecomesIdle(*engine_));
}

TEST_F(EngineGenerateTest, WithoutSelectorOrTemplateItSaysSo) {
  TinyEngineOptions options;
  options.selector = false;
  options.chat_template = false;
  auto engine = MakeTinyEngine(std::move(options));
  GenerateRequest request = Ask("", "x", 1);
  request.policy = model::Policy{.kind = model::PolicyKind::kDistilled};
  EXPECT_EQ(Reason(Complete(engine.get(), request).second.status()), reason::kSelectorMissing);
  request = Ask("", "", 1);
  request.prompt = {MessageInput{{"user", "Hi"}}};
  const absl::Status status = Complete(engine.get(), request).second.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Reason(status), reason::kNoChatTemplate);
}

TEST_F(EngineGenerateTest, EveryPolicyRuns) {
  for (int kind = 0; kind < kNumPolicies; ++kind) {
    GenerateRequest request = Ask("", Words(400), 6);
    request.policy = model::Policy{.kind = static_cast<model::PolicyKind>(kind),
                                   .k_tokens = kind == 3 ? 128 : 0,
                                   .sink_tokens = 16,
                                   .recency_tokens = 32,
                                   .k_min_tokens = 64,
                                   .dense_below_tokens = 0};
    auto [sink, result] = Complete(engine_.get(), request);
    ASSERT_TRUE(result.ok()) << kind << ": " << result.status();
    EXPECT_EQ(static_cast<int>(result->policy), kind);
    EXPECT_EQ(result->sparsity.dense_steps, kind == 0 ? 6 : 0);
  }
}

}  // namespace
}  // namespace spotd::engine
