// Who gets a place: slow readers give theirs up, and a request that would come too late is refused.
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

TEST(EngineAdmissionTest, SlowReadersCannotKeepThePlacesOfOthers) {
  TinyEngineOptions options;
  options.engine.max_running = 2;
  options.engine.reader_patience = std::chrono::milliseconds(0);
  auto engine = MakeTinyEngine(std::move(options));
  const std::vector<int32_t> expected = Tokens(engine.get(), Ask("", Words(40), 12));
  std::vector<Call> stuck;
  for (int i = 0; i < 2; ++i) {
    stuck.push_back(Start(engine.get(), Ask("", Words(40), 12), 4));
    stuck.back().sink->WaitForTokens(4);
  }
  EXPECT_EQ(engine->metrics().preemptions.load(), 0u) << "nobody waits for their places";
  ASSERT_TRUE(Complete(engine.get(), Ask("", "others go on", 5)).second.ok());
  EXPECT_GE(engine->metrics().preemptions.load(), 1u);
  // When they read again they get the rest, as if nothing had happened.
  for (Call& call : stuck) call.sink->Resume();
  for (Call& call : stuck) {
    ASSERT_TRUE(call.sink->Wait().ok());
    EXPECT_EQ(call.sink->tokens(), expected);
  }
}

TEST(EngineAdmissionTest, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  GatedEngine gated;
  Engine* engine = gated.engine.get();
  GenerateRequest request = Ask("", Words(600), 3);
  request.deadline = Clock::now() + std::chrono::hours(1);
  gated.gate->Open();
  ASSERT_TRUE(Complete(engine, request).second.ok()) << "nothing is known of the speed yet";
  // As slow as this: 600 tokens take ten minutes.
  engine->metrics().prefill_tokens_per_second.store(1);
  request.deadline = Clock::now() + std::chrono::minutes(5);
  const auto result = Complete(engine, request).second;
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(result.status()), reason::kDeadlineTooShort);
  EXPECT_TRUE(GetErrorDetails(result.status()).retry_after);
  EXPECT_EQ(GetErrorDetails(result.status()).metadata.at("expected_ms"), "600000");
  request.deadline = Clock::now() + std::chrono::minutes(11);
  EXPECT_TRUE(Complete(engine, request).second.ok());
}

TEST(EngineAdmissionTest, SpeedIsMeasured) {
  auto engine = MakeTinyEngine();
  EXPECT_EQ(engine->metrics().prefill_tokens_per_second.load(), 0);
  ASSERT_TRUE(Complete(engine.get(), Ask("", Words(100), 1)).second.ok());
  EXPECT_GT(engine->metrics().prefill_tokens_per_second.load(), 0);
}

TEST(EngineAdmissionTest, TheQueueIsBoundedInTokens) {
  TinyEngineOptions options;
  options.engine.max_running = 1;
  options.engine.max_waiting_tokens = 100;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  Call running = Start(engine, Ask("", Words(300), 2));
  gated.gate->AwaitArrival(1);
  Call waiting = Start(engine, Ask("", Words(80), 2));
  Call refused = Start(engine, Ask("", Words(21), 2));
  Call small = Start(engine, Ask("", Words(20), 2));
  gated.gate->Open();
  EXPECT_EQ(Reason(refused.sink->Wait().status()), reason::kQueueFull);
  for (Call* call : {&running, &waiting, &small}) EXPECT_TRUE(call->sink->Wait().ok());
  EXPECT_EQ(engine->metrics().waiting_tokens.load(), 0);
}

// Candidates are not there yet while their prompt is computed, but their places are taken: the
// model decodes no more sequences than it has room for.
TEST(EngineAdmissionTest, CandidatesKeepTheirPlacesWhileTheirPromptIsComputed) {
  TinyEngineOptions options;
  options.limits.max_batch = 4;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  GenerateRequest several = Ask("", Words(100), 4);
  several.candidates = 3;
  Call wide = Start(engine, several);
  gated.gate->AwaitArrival(1);
  std::vector<Call> others;
  for (int i = 0; i < 3; ++i) others.push_back(Start(engine, Ask("", Words(20), 40)));
  gated.gate->Open();
  for (Call& call : others) EXPECT_TRUE(call.sink->Wait().ok());
  EXPECT_TRUE(wide.sink->Wait().ok());
}

// Who gets all it asked for with its place has gone when the next one looks for a place.
TEST(EngineAdmissionTest, ARequestThatEndsAtOnceIsNobodysRival) {
  TinyEngineOptions options;
  options.engine.max_running = 2;
  options.engine.tenant_patience = std::chrono::milliseconds(0);
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  gated.hook->Set(nullptr);
  const std::string first = NewSession(engine);
  ASSERT_TRUE(AppendText(engine, first, Words(33)).ok());
  const std::string second = NewSession(engine);
  gated.hook->Set([gate = gated.gate] { return gate->Pass(); });

  GenerateRequest request = Ask("", "x", 50);
  request.tenant = "busy";
  Call running = Start(engine, request);
  gated.gate->AwaitArrival(1);
  request.tenant = "waits for two places";
  request.candidates = 2;
  Call waiting = Start(engine, request);
  Appending cached = StartAppend(engine, second, {TextInput{Words(33)}}, nullptr, /*priority=*/1);
  gated.gate->Open();
  const auto appended = cached.Wait();
  ASSERT_TRUE(appended.ok()) << appended.status();
  EXPECT_EQ(appended->usage.computed_tokens, 1) << "all but the newest token were cached";
  EXPECT_TRUE(running.sink->Wait().ok());
  EXPECT_TRUE(waiting.sink->Wait().ok());
}

}  // namespace
}  // namespace spotd::engine
