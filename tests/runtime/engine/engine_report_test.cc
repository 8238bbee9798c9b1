// What a Generate reports on request, and the several replies to one prompt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

TEST(EngineLogprobsTest, TheLikeliestTokensComeWithEachToken) {
  auto engine = MakeTinyEngine();
  GenerateRequest request = Ask("", "some prompt", 8);
  request.top_logprobs = 3;
  auto [sink, result] = Complete(engine.get(), request);
  ASSERT_TRUE(result.ok()) << result.status();
  for (const TokenEvent& event : sink->events()) {
    ASSERT_THAT(event.top, SizeIs(3));
    EXPECT_EQ(event.top[0].token, event.token) << "greedy";
    EXPECT_NEAR(event.top[0].logprob, event.logprob, 1e-4);
    EXPECT_GE(event.top[0].logprob, event.top[1].logprob);
    EXPECT_GE(event.top[1].logprob, event.top[2].logprob);
  }
  // Asking changes nothing, for itself or for a neighbour that does not ask.
  EXPECT_EQ(sink->tokens(), Tokens(engine.get(), Ask("", "some prompt", 8)));
  Call asking = Start(engine.get(), request);
  Call plain = Start(engine.get(), Ask("", "another prompt", 8));
  ASSERT_TRUE(asking.sink->Wait().ok());
  ASSERT_TRUE(plain.sink->Wait().ok());
  EXPECT_EQ(plain.sink->tokens(), Tokens(engine.get(), Ask("", "another prompt", 8)));
  EXPECT_THAT(plain.sink->events()[0].top, SizeIs(0));
}

TEST(EngineLogitBiasTest, ForbidsAndForces) {
  auto engine = MakeTinyEngine();
  const std::vector<int32_t> plain = Tokens(engine.get(), Ask("", "some prompt", 8));
  GenerateRequest request = Ask("", "some prompt", 8);
  request.sampling.logit_bias = {{plain[0], -100.0f}};
  for (const int32_t token : Tokens(engine.get(), request)) EXPECT_NE(token, plain[0]);
  request.sampling.logit_bias = {{33, 100.0f}};
  EXPECT_EQ(Tokens(engine.get(), request), std::vector<int32_t>(8, 33));
}

TEST(EngineCandidatesTest, EachIsTheReplyOfItsSeedAndThePromptIsComputedOnce) {
  auto engine = MakeTinyEngine();
  GenerateRequest request = Ask("", Words(100), 12);
  request.sampling.params.temperature = 1;
  request.sampling.seed = 77;
  request.candidates = 3;
  auto [sink, result] = Complete(engine.get(), request);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->candidates, SizeIs(3));
  EXPECT_EQ(result->usage.prompt_tokens, 100);
  EXPECT_EQ(result->usage.computed_tokens, 100);
  EXPECT_EQ(result->usage.generated_tokens, 36);
  EXPECT_EQ(engine->metrics().prompt_tokens_computed.load(), 100u);
  auto replies = sink->by_candidate();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(result->candidates[i].seed, 77u + i);
    EXPECT_EQ(result->candidates[i].generated_tokens, 12);
    GenerateRequest alone = Ask("", Words(100), 12);
    alone.sampling.params.temperature = 1;
    alone.sampling.seed = 77 + i;
    EXPECT_EQ(replies[i], Tokens(engine.get(), alone)) << i;
  }
  EXPECT_TRUE(BecomesIdle(*engine));
  EXPECT_EQ(engine->metrics().kv_blocks_used.load(), 0);
  EXPECT_EQ(engine->metrics().requests_running.load(), 0);
}

TEST(EngineCandidatesTest, ASessionKeepsTheFirst) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(50)).ok());
  GenerateRequest request = Ask(id, "", 6);
  request.sampling.params.temperature = 1;
  request.sampling.seed = 5;
  request.candidates = 2;
  auto [sink, result] = Complete(engine.get(), request);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->session_tokens_after, 56);
  EXPECT_EQ(engine->GetSession(id)->tokens, 56);
  const std::string fresh = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), fresh, Words(50)).ok());
  GenerateRequest alone = Ask(fresh, "", 6);
  alone.sampling = request.sampling;
  EXPECT_EQ(Tokens(engine.get(), alone), sink->by_candidate()[0]);
  EXPECT_EQ(Tokens(engine.get(), Ask(id, "+", 4)), Tokens(engine.get(), Ask(fresh, "+", 4)));
}

TEST(EngineCandidatesTest, CancellingEndsAll) {
  auto engine = MakeTinyEngine();
  GenerateRequest request = Ask("", Words(100), 200);
  request.candidates = 3;
  Call call = Start(engine.get(), request, 5);
  call.sink->WaitForTokens(5);
  call.cancel->Cancel();
  EXPECT_EQ(Reason(call.sink->Wait().status()), reason::kCancelled);
  EXPECT_TRUE(BecomesIdle(*engine));
  EXPECT_EQ(engine->metrics().kv_blocks_used.load(), 0);
}

// Only the first is there while the prompt waits and while it is computed.
TEST(EngineCandidatesTest, AnEndBeforeTheOthersBeginIsTold) {
  GatedEngine gated;
  Engine* engine = gated.engine.get();
  GenerateRequest request = Ask("", Words(100), 5);
  request.candidates = 3;
  Call prefilling = Start(engine, request);
  gated.gate->AwaitArrival(1);
  prefilling.cancel->Cancel();
  Call waiting = Start(engine, request);
  waiting.cancel->Cancel();
  gated.gate->Open();
  EXPECT_EQ(Reason(prefilling.sink->Wait().status()), reason::kCancelled);
  EXPECT_EQ(Reason(waiting.sink->Wait().status()), reason::kCancelled);
  EXPECT_TRUE(BecomesIdle(*engine));
}

TEST(EngineSelectionTest, SaysWhatEachTokenRead) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  EXPECT_EQ(Reason(engine->Selection(id).status()), reason::kTraceNotFound);
  GenerateRequest request = Ask(id, Words(400), 10);
  request.record_selection = true;
  model::Policy policy;
  policy.kind = model::PolicyKind::kWindow;
  policy.sink_tokens = 32;
  policy.recency_tokens = 48;
  policy.k_min_tokens = 0;
  policy.dense_below_tokens = 403;
  request.policy = policy;
  auto [sink, result] = Complete(engine.get(), request);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto record = *engine->Selection(id);
  ASSERT_THAT(record->steps(), SizeIs(10));
  for (int i = 0; i < 10; ++i) {
    const SelectionRecord::Step& step = record->steps()[i];
    EXPECT_EQ(step.position, 400 + i);
    EXPECT_EQ(step.token, sink->tokens()[i]);
    EXPECT_EQ(step.dense, i < 4) << "up to 403 tokens of context";
    if (step.dense) continue;
    ASSERT_THAT(step.layers, SizeIs(2));
    for (const std::vector<BlockRun>& runs : step.layers) {
      ASSERT_THAT(runs, SizeIs(2));
      EXPECT_EQ(runs[0].first, 0);
      EXPECT_EQ(runs[0].count, 2);
      EXPECT_EQ(runs[1].first + runs[1].count, (400 + i + 15) / 16) << "to the newest";
    }
  }
  // The next recorded reply takes its place; one that is not recorded leaves it.
  ASSERT_TRUE(Complete(engine.get(), Ask(id, "x", 2)).second.ok());
  EXPECT_THAT((*engine->Selection(id))->steps(), SizeIs(10));
  request = Ask(id, "y", 3);
  request.record_selection = true;
  ASSERT_TRUE(Complete(engine.get(), request).second.ok());
  EXPECT_THAT((*engine->Selection(id))->steps(), SizeIs(3));
}

TEST(EngineSelectionTest, MemoryIsBounded) {
  TinyEngineOptions options;
  options.engine.max_record_bytes = 600;
  auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSession(engine.get());
  GenerateRequest request = Ask(id, Words(40), 50);
  request.record_selection = true;
  ASSERT_TRUE(Complete(engine.get(), request).second.ok());
  const auto record = *engine->Selection(id);
  EXPECT_GT(record->dropped(), 0);
  EXPECT_EQ(record->dropped() + static_cast<int32_t>(record->steps().size()), 50);
}

}  // namespace
}  // namespace spotd::engine
