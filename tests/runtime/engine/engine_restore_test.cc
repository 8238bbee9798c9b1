// What an idle session loses to others is computed again when it comes back, and is told apart from
// what is new: in replies and in metrics.
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

// Bytes of one block of the tiny model without a selector: 2 layers, 2 KV heads of 16 dims.
constexpr size_t kBlockBytes = 2 * (2 * 2 * 16 * 16 * 2 + 2 * 2 * 16 * 2);

class EngineRestoreTest : public ::testing::Test {
 protected:
  explicit EngineRestoreTest(int blocks = 10, double prefix_cache_share = 0)
      : gated_(Options(blocks, prefix_cache_share)), engine_(gated_.engine.get()) {
    gated_.GoByTheGate();
  }

  // A session of `tokens` tokens that has just lost its KV.
  std::string LostSession(int tokens) {
    const std::string id = NewSession(engine_);
    EXPECT_TRUE(AppendText(engine_, id, Words(tokens)).ok());
    LoseAll();
    EXPECT_EQ(engine_->GetSession(id)->cached_tokens, 0);
    return id;
  }
  // A request that needs all there is.
  void LoseAll() { ASSERT_TRUE(Complete(engine_, Ask("", Words(150, 77), 1)).second.ok()); }
  Usage Generate(const std::string& id, const std::string& prompt) {
    const auto result = Complete(engine_, Ask(id, prompt, 2)).second;
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->usage : Usage();
  }
  const Metrics& metrics() { return engine_->metrics(); }

  GatedEngine gated_;
  Engine* engine_;

 private:
  static TinyEngineOptions Options(int blocks, double prefix_cache_share) {
    TinyEngineOptions options;
    options.selector = false;
    options.engine.kv_memory_bytes = blocks * kBlockBytes;
    options.engine.prefix_cache_share = prefix_cache_share;
    return options;
  }
};

TEST_F(EngineRestoreTest, AGenerateRestoresWhatTheSessionLost) {
  const std::string id = LostSession(100);
  const uint64_t computed = metrics().prompt_tokens_computed.load();
  const Usage usage = Generate(id, "question");
  EXPECT_EQ(usage.prompt_tokens, 108);
  EXPECT_EQ(usage.restored_tokens, 99) << "the newest token never had KV";
  EXPECT_EQ(usage.computed_tokens, 9);
  EXPECT_EQ(metrics().prompt_tokens_restored.load(), 99u);
  EXPECT_EQ(metrics().prompt_tokens_computed.load() - computed, 9u);
  const Usage again = Generate(id, "more");
  EXPECT_EQ(again.restored_tokens, 0) << "it has it now";
  EXPECT_EQ(again.session_tokens, 109);
}

TEST_F(EngineRestoreTest, AnAppendRestoresToo) {
  const std::string id = LostSession(100);
  const auto result = AppendText(engine_, id, "more");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->usage.restored_tokens, 99);
  EXPECT_EQ(result->usage.computed_tokens, 5);
}

TEST_F(EngineRestoreTest, RepliesAreRestoredLikePrompts) {
  const std::string id = NewSession(engine_);
  ASSERT_TRUE(Complete(engine_, Ask(id, Words(60), 30)).second.ok());
  LoseAll();
  EXPECT_EQ(Generate(id, "").restored_tokens, 89);
}

TEST_F(EngineRestoreTest, AForkRestoresItsParents) {
  const std::string id = LostSession(100);
  const std::string fork = engine_->ForkSession(id, {})->id;
  EXPECT_EQ(Generate(fork, "x").restored_tokens, 99);
  // Of a parent that has its KV nothing need be restored, until the fork loses it.
  const std::string second = engine_->ForkSession(fork, {})->id;
  EXPECT_EQ(Generate(second, "x").restored_tokens, 0);
  const std::string third = engine_->ForkSession(second, {})->id;
  LoseAll();
  EXPECT_EQ(Generate(third, "x").restored_tokens, 105) << "100 and two turns of 1 + 2, less one";
}

TEST_F(EngineRestoreTest, WhatARewindForgetsIsNewWhenItComesAgain) {
  const std::string id = LostSession(100);
  ASSERT_TRUE(engine_->RewindSession(id, 40).ok());
  const Usage usage = Generate(id, Words(30, 5));
  EXPECT_EQ(usage.prompt_tokens, 70);
  EXPECT_EQ(usage.restored_tokens, 39);
  EXPECT_EQ(usage.computed_tokens, 31);
}

TEST_F(EngineRestoreTest, WhatAnotherSessionHasIsFoundAndNotRestored) {
  const std::string id = LostSession(100);
  const std::string other = NewSession(engine_);
  ASSERT_TRUE(AppendText(engine_, other, Words(40)).ok());
  const Usage usage = Generate(id, "x");
  EXPECT_EQ(usage.prefix_tokens, 32);
  EXPECT_EQ(usage.restored_tokens, 99 - 32);
  EXPECT_EQ(usage.computed_tokens, 2);
}

TEST_F(EngineRestoreTest, ACancelledRestoreIsRestoredByTheNext) {
  const std::string id = LostSession(100);
  GenerateRequest request = Ask(id, "x", 50);
  Call call = Start(engine_, request, /*pause_after=*/0);
  call.cancel->Cancel();
  (void)call.sink->Wait();
  const Usage usage = Generate(id, "");
  EXPECT_EQ(usage.restored_tokens + usage.session_tokens, usage.prompt_tokens - 1);
}

// Preemption is not the session's loss: what is computed a second time counts once in the reply,
// and as preempted in the metrics.
TEST_F(EngineRestoreTest, PreemptionCountsOnce) {
  const std::string old_id = NewSession(engine_);
  const std::string young_id = NewSession(engine_);
  gated_.StopAtGate();
  Call old_call = Start(engine_, Ask(old_id, Words(40, 1), 60));
  Call young_call = Start(engine_, Ask(young_id, Words(40, 2), 60));
  gated_.gate->Open();
  ASSERT_TRUE(old_call.sink->Wait().ok());
  const auto young = young_call.sink->Wait();
  ASSERT_TRUE(young.ok()) << young.status();
  ASSERT_GE(metrics().preemptions.load(), 1u);
  EXPECT_EQ(young->usage.computed_tokens, 40);
  EXPECT_EQ(young->usage.restored_tokens, 0);
  EXPECT_EQ(metrics().prompt_tokens_computed.load(), 80u);
  EXPECT_EQ(metrics().prompt_tokens_restored.load(), 0u);
  EXPECT_GE(metrics().preempted_tokens.load(), 40u);
}

// What was preempted and ended before it came back has been lost by its session.
TEST_F(EngineRestoreTest, APreemptedReplyThatIsCancelledIsRestored) {
  const std::string id = NewSession(engine_);
  gated_.StopAtGate();
  Call old_call = Start(engine_, Ask("", Words(40, 1), 100), 90);
  Call young_call = Start(engine_, Ask(id, Words(40, 2), 100));
  gated_.gate->Open();
  ASSERT_TRUE(Eventually([&] { return metrics().preemptions.load() > 0; }));
  young_call.cancel->Cancel();
  old_call.cancel->Cancel();
  (void)old_call.sink->Wait();
  if (young_call.sink->Wait().ok()) return;  // it was quicker
  const Usage usage = Generate(id, "x");
  EXPECT_EQ(usage.restored_tokens + usage.session_tokens, usage.prompt_tokens - 2);
}

class EnginePrefixCacheTest : public EngineRestoreTest {
 protected:
  EnginePrefixCacheTest() : EngineRestoreTest(20, 0.5) {}
};

// A beginning outlives the session that computed it, for its tenant, while there is room.
TEST_F(EnginePrefixCacheTest, ABeginningOutlivesItsSessions) {
  const std::string id = NewSession(engine_);
  ASSERT_TRUE(AppendText(engine_, id, Words(100)).ok());
  ASSERT_TRUE(engine_->DeleteSession(id).ok());
  EXPECT_EQ(metrics().kv_blocks_used.load(), 0);
  EXPECT_EQ(metrics().kv_blocks_kept.load(), 6);
  const auto [sink, result] = Complete(engine_, Ask("", Words(100), 4));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->usage.prefix_tokens, 96);
  GenerateRequest others = Ask("", Words(100), 4);
  others.tenant = "other";
  const auto [other_sink, other] = Complete(engine_, others);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->usage.prefix_tokens, 0) << "another tenant's";
  EXPECT_EQ(sink->tokens(), other_sink->tokens());
  EXPECT_EQ(metrics().kv_blocks_used.load(), 0);
}

TEST_F(EnginePrefixCacheTest, ItIsGivenUpBeforeAnIdleSessionsKv) {
  const std::string idle = NewSession(engine_);
  ASSERT_TRUE(AppendText(engine_, idle, Words(100, 2)).ok());  // 7 blocks
  ASSERT_TRUE(Complete(engine_, Ask("", Words(100, 3), 1)).second.ok());
  EXPECT_EQ(metrics().kv_blocks_kept.load(), 6);
  ASSERT_TRUE(Complete(engine_, Ask("", Words(200, 4), 1)).second.ok());  // 13 blocks
  EXPECT_EQ(engine_->GetSession(idle)->cached_tokens, 99);
  EXPECT_GE(metrics().kv_kept_given_up.load(), 6u);
  EXPECT_LE(metrics().kv_blocks_kept.load(), 10) << "half of all at most";
  EXPECT_EQ(metrics().kv_reclaims.load(), 0u);
}

}  // namespace
}  // namespace spotd::engine
