// KV memory is scarce: idle sessions give way, new requests are refused, running ones keep what
// they have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::SizeIs;

// Bytes of one block of the tiny model without a selector: 2 layers, 2 KV heads of 16 dims.
constexpr size_t kBlockBytes = 2 * (2 * 2 * 16 * 16 * 2 + 2 * 2 * 16 * 2);

TinyEngineOptions WithBlocks(int blocks) {
  TinyEngineOptions options;
  options.selector = false;
  options.engine.kv_memory_bytes = blocks * kBlockBytes;
  return options;
}

TEST(EngineKvTest, MemoryIsAccountedExactly) {
  auto engine = MakeTinyEngine(WithBlocks(10));
  EXPECT_EQ(engine->metrics().kv_blocks_total.load(), 10);
  EXPECT_EQ(engine->metrics().kv_bytes_per_block.load(), static_cast<int64_t>(kBlockBytes));
  EXPECT_EQ(engine->max_context(), 160);
}

TEST(EngineKvTest, IdleSessionsGiveWayLeastRecentlyUsedFirst) {
  auto engine = MakeTinyEngine(WithBlocks(20));
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(NewSession(engine.get()));
    ASSERT_TRUE(AppendText(engine.get(), ids.back(), Words(96, i)).ok());
  }
  ASSERT_TRUE(Complete(engine.get(), Ask(ids[0], "", 1)).second.ok());  // used again
  EXPECT_EQ(engine->metrics().kv_blocks_used.load(), 18);
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(96, 9)).ok());
  EXPECT_EQ(engine->GetSession(ids[1])->cached_tokens, 0) << "the oldest";
  EXPECT_EQ(engine->GetSession(ids[0])->cached_tokens, 96);
  EXPECT_EQ(engine->GetSession(ids[2])->cached_tokens, 95);
  EXPECT_EQ(engine->GetSession(ids[1])->tokens, 96) << "its tokens stay";
  EXPECT_EQ(engine->metrics().kv_reclaims.load(), 1u);
  EXPECT_EQ(engine->metrics().kv_reclaimed_tokens.load(), 95u);

  // It comes back, computed again, and says so.
  auto [sink, result] = Complete(engine.get(), Ask(ids[1], "go", 8));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->usage.session_tokens, 0);
  EXPECT_EQ(result->usage.restored_tokens, 95);
  EXPECT_EQ(result->usage.computed_tokens, 3);
  EXPECT_EQ(sink->tokens(), Tokens(engine.get(), Ask("", Words(96, 1) + "go", 8)));
}

TEST(EngineKvTest, ASessionThatSharesAllItsKvIsNotDroppedInVain) {
  auto engine = MakeTinyEngine(WithBlocks(10));
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(65)).ok());  // 4 blocks
  const std::string fork = engine->ForkSession(id, {})->id;
  const std::string other = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), other, Words(65, 2)).ok());
  // 8 of 10 in use; 4 more are needed: the unshared session goes, though it was used last.
  ASSERT_TRUE(Complete(engine.get(), Ask("", Words(60, 3), 1)).second.ok());
  EXPECT_EQ(engine->GetSession(other)->cached_tokens, 0);
  EXPECT_EQ(engine->GetSession(id)->cached_tokens, 64);
  // All 10: both go.
  ASSERT_TRUE(Complete(engine.get(), Ask("", Words(150, 4), 1)).second.ok());
  EXPECT_EQ(engine->GetSession(id)->cached_tokens, 0);
  EXPECT_EQ(engine->GetSession(fork)->cached_tokens, 0);
}

TEST(EngineKvTest, AForkOfASessionThatFillsMemoryCanBeUsed) {
  auto engine = MakeTinyEngine(WithBlocks(4));
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(60)).ok());
  const std::string fork = engine->ForkSession(id, {})->id;
  auto [sink, result] = Complete(engine.get(), Ask(fork, "", 3));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->usage.session_tokens, 59);
  EXPECT_EQ(engine->GetSession(id)->cached_tokens, 0);
  EXPECT_THAT(Tokens(engine.get(), Ask(id, "", 3)), SizeIs(3));
}

TEST(EngineKvTest, ARequestThatDoesNotFitBesideTheRunningOnesIsRefusedAtOnce) {
  TinyEngineOptions options = WithBlocks(8);
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  gated.GoByTheGate();
  const std::string idle = NewSession(engine);
  ASSERT_TRUE(AppendText(engine, idle, Words(30, 3)).ok());
  gated.StopAtGate();
  Call running = Start(engine, Ask("", Words(80), 5));  // 5 of 8 blocks
  gated.gate->AwaitArrival(1);
  const std::string id = NewSession(engine);
  Call refused = Start(engine, Ask(id, Words(60, 2), 5));  // 4 blocks
  gated.gate->Open();
  const absl::Status status = refused.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(status), reason::kKvExhausted);
  EXPECT_TRUE(GetErrorDetails(status).retry_after);
  EXPECT_EQ(engine->GetSession(idle)->cached_tokens, 29) << "dropped for nothing";
  ASSERT_TRUE(running.sink->Wait().ok());
  EXPECT_EQ(engine->GetSession(id)->tokens, 0);
  EXPECT_THAT(Tokens(engine, Ask(id, Words(60, 2), 5)), SizeIs(5));
}

TEST(EngineKvTest, RepliesThatOutgrowMemoryTakeTurns) {
  GatedEngine gated(WithBlocks(8));
  Engine* engine = gated.engine.get();
  gated.GoByTheGate();
  const std::vector<int32_t> alone = Tokens(engine, Ask("", Words(40), 50));
  gated.StopAtGate();
  // Each may grow to 6 blocks; together they may not: the younger makes room and comes back.
  const std::string old_id = NewSession(engine);
  const std::string young_id = NewSession(engine);
  Call old_call = Start(engine, Ask(old_id, Words(40), 50));
  Call young_call = Start(engine, Ask(young_id, Words(40), 50));
  gated.gate->Open();
  ASSERT_TRUE(old_call.sink->Wait().ok());
  const auto young = young_call.sink->Wait();
  ASSERT_TRUE(young.ok()) << young.status();
  EXPECT_EQ(old_call.sink->tokens(), alone);
  EXPECT_EQ(young_call.sink->tokens(), alone);
  EXPECT_GE(engine->metrics().preemptions.load(), 1u);
  EXPECT_GT(engine->metrics().preempted_tokens.load(), 40u);
  EXPECT_EQ(engine->GetSession(young_id)->tokens, 90);
}

TEST(EngineKvTest, APreemptedReplyCanBeCancelled) {
  GatedEngine gated(WithBlocks(8));
  Engine* engine = gated.engine.get();
  const std::string id = NewSession(engine);
  Call old_call = Start(engine, Ask("", Words(40, 1), 80), 50);
  Call young_call = Start(engine, Ask(id, Words(40, 2), 80));
  gated.gate->Open();
  ASSERT_TRUE(Eventually([&] { return engine->metrics().preemptions.load() > 0; }));
  young_call.cancel->Cancel();
  old_call.cancel->Cancel();
  EXPECT_FALSE(old_call.sink->Wait().ok());
  const auto young = young_call.sink->Wait();
  // What it had delivered stays, whether it was running or waiting to come back.
  const auto tokens = static_cast<int32_t>(young_call.sink->tokens().size());
  if (!young.ok()) {
    EXPECT_EQ(Reason(young.status()), reason::kCancelled);
  }
  EXPECT_EQ(engine->GetSession(id)->tokens, tokens == 0 ? 0 : 40 + tokens);
  EXPECT_TRUE(BecomesIdle(*engine));
}

// What wedged other engines: every session idle and holding KV, and each wants a turn.
TEST(EngineKvTest, NoSetOfSessionsWedgesTheEngine) {
  auto engine = MakeTinyEngine(WithBlocks(12));
  std::vector<std::string> ids;
  for (int i = 0; i < 10; ++i) {
    ids.push_back(NewSession(engine.get()));
    ASSERT_TRUE(AppendText(engine.get(), ids.back(), Words(100, i)).ok()) << i;
  }
  for (int round = 0; round < 3; ++round) {
    std::vector<Call> calls;
    for (const std::string& id : ids) calls.push_back(Start(engine.get(), Ask(id, "x", 5)));
    int served = 0;
    for (Call& call : calls) {
      const auto result = call.sink->Wait();
      served += result.ok();
      if (!result.ok()) {
        EXPECT_EQ(Reason(result.status()), reason::kKvExhausted);
      }
    }
    EXPECT_GT(served, 0);
  }
  for (const std::string& id : ids)
    EXPECT_TRUE(Complete(engine.get(), Ask(id, "y", 2)).second.ok());
}

TEST(EngineKvTest, NotEvenOneBlockIsAnError) {
  TinyEngineOptions options = WithBlocks(1);
  options.engine.kv_memory_bytes -= 1;
  EXPECT_EQ(testing::CreateTinyEngine(std::move(options)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace spotd::engine
