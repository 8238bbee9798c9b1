// Sessions of one tenant that begin alike compute their beginning once.
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

TEST(EnginePrefixTest, ABeginningIsComputedOnceAndCountedAsSuch) {
  auto engine = MakeTinyEngine();
  const std::string document = Words(200);
  const std::string first = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), first, document).ok());
  const int64_t used = engine->metrics().kv_blocks_used.load();
  const uint64_t computed = engine->metrics().prompt_tokens_computed.load();

  auto [sink, result] = Complete(engine.get(), Ask("", document + "question", 8));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->usage.prompt_tokens, 208);
  EXPECT_EQ(result->usage.prefix_tokens, 192) << "whole blocks of what the other has computed";
  EXPECT_EQ(result->usage.session_tokens, 0);
  EXPECT_EQ(result->usage.computed_tokens, 16);
  EXPECT_EQ(engine->metrics().prompt_tokens_computed.load() - computed, 16u);
  EXPECT_EQ(engine->metrics().prompt_tokens_prefix.load(), 192u);
  EXPECT_EQ(engine->metrics().kv_copies_on_write.load(), 0u);

  const std::string second = NewSession(engine.get());
  const auto appended = AppendText(engine.get(), second, document);
  ASSERT_TRUE(appended.ok());
  EXPECT_EQ(appended->usage.prefix_tokens, 192);
  EXPECT_EQ(engine->metrics().kv_blocks_used.load(), used + 1) << "one block of its own";
  EXPECT_EQ(engine->metrics().kv_blocks_shared.load(), 12);

  // The same tokens as without sharing.
  TinyEngineOptions options;
  options.engine.prefix_sharing = false;
  auto plain = MakeTinyEngine(std::move(options));
  EXPECT_EQ(sink->tokens(), Tokens(plain.get(), Ask("", document + "question", 8)));
}

TEST(EnginePrefixTest, NotAcrossTenantsNorWhereTheOperatorSaysNo) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(100)).ok());
  GenerateRequest other = Ask("", Words(100), 1);
  other.tenant = "other";
  EXPECT_EQ(Complete(engine.get(), other).second->usage.prefix_tokens, 0);
  EXPECT_EQ(Complete(engine.get(), Ask("", Words(100), 1)).second->usage.prefix_tokens, 96);

  TinyEngineOptions options;
  options.engine.prefix_sharing = false;
  auto plain = MakeTinyEngine(std::move(options));
  const std::string kept = NewSession(plain.get());
  ASSERT_TRUE(AppendText(plain.get(), kept, Words(100)).ok());
  EXPECT_EQ(Complete(plain.get(), Ask("", Words(100), 1)).second->usage.prefix_tokens, 0);
}

// A reply's KV comes from sparse steps: it is nobody's but the session's own.
TEST(EnginePrefixTest, RepliesAreNotShared) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(Complete(engine.get(), Ask(id, Words(64), 64)).second.ok());
  const std::string fork = engine->ForkSession(id, {})->id;
  ASSERT_TRUE(AppendText(engine.get(), id, Words(64, 5)).ok());
  EXPECT_EQ(engine->metrics().kv_blocks_offered.load(), 3) << "63 tokens were prefilled";
  EXPECT_EQ(Complete(engine.get(), Ask("", Words(70), 1)).second->usage.prefix_tokens, 48);
}

TEST(EnginePrefixTest, ForkAndRewindCopyNothing) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(200)).ok());
  const int64_t used = engine->metrics().kv_blocks_used.load();
  std::vector<std::string> forks;
  for (int i = 0; i < 10; ++i) forks.push_back(engine->ForkSession(id, {})->id);
  for (const std::string& fork : forks) ASSERT_TRUE(engine->RewindSession(fork, 100).ok());
  EXPECT_EQ(engine->metrics().kv_blocks_used.load(), used);
  EXPECT_EQ(engine->metrics().kv_copies_on_write.load(), 0u);
}

// A session whose KV was dropped finds its beginning with others that have it still.
TEST(EnginePrefixTest, ADroppedSessionAdoptsWhatAnotherHas) {
  auto engine = MakeTinyEngine();
  const std::string first = NewSession(engine.get());
  const std::string second = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), first, Words(100)).ok());
  ASSERT_TRUE(AppendText(engine.get(), second, Words(100)).ok());
  ASSERT_TRUE(engine->RewindSession(second, 1).ok());
  const auto result = Complete(engine.get(), Ask(second, Words(100).substr(1), 2)).second;
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->usage.prefix_tokens, 96);
  EXPECT_EQ(result->usage.computed_tokens, 4);
}

}  // namespace
}  // namespace spotd::engine
