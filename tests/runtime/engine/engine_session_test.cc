#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class EngineSessionTest : public ::testing::Test {
 protected:
  std::unique_ptr<Engine> engine_ = MakeTinyEngine();
};

TEST_F(EngineSessionTest, ANewSessionIsEmpty) {
  const auto info = engine_->CreateSession({.display_name = "notes", .policy = std::nullopt});
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->display_name, "notes");
  EXPECT_EQ(info->tokens, 0);
  EXPECT_EQ(info->kv_blocks, 0);
  EXPECT_FALSE(info->busy);
  EXPECT_GT(info->create_time_ms, 0);
  EXPECT_EQ(engine_->metrics().sessions.load(), 1);
}

TEST_F(EngineSessionTest, InfoFollowsTheContent) {
  const std::string id = NewSession(engine_.get());
  ASSERT_TRUE(AppendText(engine_.get(), id, Words(40)).ok());
  const SessionInfo info = *engine_->GetSession(id);
  EXPECT_EQ(info.tokens, 40);
  EXPECT_EQ(info.cached_tokens, 39);
  EXPECT_EQ(info.kv_blocks, 3);
  EXPECT_EQ(info.kv_bytes, 3 * static_cast<size_t>(engine_->metrics().kv_bytes_per_block.load()));
  EXPECT_GE(info.update_time_ms, info.create_time_ms);
  EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 3);
}

TEST_F(EngineSessionTest, ListsInIdOrderPageByPage) {
  std::set<std::string> ids;
  for (int i = 0; i < 7; ++i) ids.insert(NewSession(engine_.get()));
  std::vector<std::string> listed;
  std::string after;
  while (true) {
    const auto page = engine_->ListSessions(after, 3);
    if (page.empty()) break;
    for (const SessionInfo& info : page) listed.push_back(info.id);
    after = listed.back();
  }
  EXPECT_EQ(listed, std::vector<std::string>(ids.begin(), ids.end()));
  EXPECT_THAT(engine_->ListSessions("", 0), IsEmpty());
}

TEST_F(EngineSessionTest, ASessionLimitIsKept) {
  TinyEngineOptions options;
  options.engine.sessions.max_sessions = 2;
  auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSession(engine.get());
  NewSession(engine.get());
  for (const absl::Status& status :
       {engine->CreateSession({}).status(), engine->ForkSession(id, {}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(Reason(status), reason::kSessionLimit);
    EXPECT_TRUE(GetErrorDetails(status).retry_after);
  }
  ASSERT_TRUE(engine->DeleteSession(id).ok());
  EXPECT_TRUE(engine->CreateSession({}).ok());
}

TEST_F(EngineSessionTest, DeletingGivesKvBack) {
  const std::string id = NewSession(engine_.get());
  ASSERT_TRUE(AppendText(engine_.get(), id, Words(100)).ok());
  ASSERT_TRUE(engine_->DeleteSession(id).ok());
  EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 0);
  EXPECT_EQ(engine_->metrics().sessions.load(), 0);
  EXPECT_EQ(engine_->metrics().session_tokens.load(), 0);
  for (const absl::Status& status :
       {engine_->DeleteSession(id), engine_->GetSession(id).status(),
        engine_->RewindSession(id, 0).status(), engine_->ForkSession(id, {}).status(),
        AppendText(engine_.get(), id, "x").status(), AppendText(engine_.get(), "", "x").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(Reason(status), reason::kSessionNotFound);
  }
}

TEST_F(EngineSessionTest, BadOptionsAreRefused) {
  EXPECT_EQ(Reason(engine_->CreateSession({.display_name = "\xff", .policy = {}}).status()),
            reason::kInvalidUtf8);
  const model::Policy bad = {.p_total = -1};
  EXPECT_EQ(Reason(engine_->CreateSession({.display_name = "", .policy = bad}).status()),
            reason::kInvalidPolicy);
  const std::string id = NewSession(engine_.get());
  EXPECT_EQ(Reason(engine_->ForkSession(id, {.display_name = "", .policy = bad}).status()),
            reason::kInvalidPolicy);
  EXPECT_EQ(engine_->metrics().sessions.load(), 1);
}

TEST_F(EngineSessionTest, AForkSharesKvAndGoesItsOwnWay) {
  const std::string id = NewSession(engine_.get());
  ASSERT_TRUE(AppendText(engine_.get(), id, Words(100)).ok());
  const auto fork = engine_->ForkSession(id, {.display_name = "branch", .policy = std::nullopt});
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->tokens, 100);
  EXPECT_EQ(fork->cached_tokens, 99);
  EXPECT_EQ(fork->kv_blocks, 7);
  EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 7);
  EXPECT_EQ(engine_->metrics().kv_blocks_shared.load(), 7);

  const std::vector<int32_t> left = Tokens(engine_.get(), Ask(id, "left", 10));
  auto [sink, right] = Complete(engine_.get(), Ask(fork->id, "right", 10));
  EXPECT_EQ(right->usage.session_tokens, 99);
  EXPECT_GT(engine_->metrics().kv_copies_on_write.load(), 0u);
  EXPECT_EQ(left, Tokens(engine_.get(), Ask("", Words(100) + "left", 10)));
  EXPECT_EQ(sink->tokens(), Tokens(engine_.get(), Ask("", Words(100) + "right", 10)));
}

TEST_F(EngineSessionTest, ASessionsPolicyIsInheritedByForkAndRequest) {
  const model::Policy window = {.kind = model::PolicyKind::kWindow};
  const auto parent = engine_->CreateSession({.display_name = "", .policy = window});
  const auto fork = engine_->ForkSession(parent->id, {});
  EXPECT_EQ(fork->policy.kind, model::PolicyKind::kWindow);
  EXPECT_EQ(Complete(engine_.get(), Ask(fork->id, "x", 1)).second->policy,
            model::PolicyKind::kWindow);
  EXPECT_EQ(Complete(engine_.get(), Ask("", "x", 1)).second->policy, model::PolicyKind::kFull);
}

TEST_F(EngineSessionTest, RewindForgetsWhatFollows) {
  const std::string id = NewSession(engine_.get());
  ASSERT_TRUE(AppendText(engine_.get(), id, Words(100)).ok());
  ASSERT_TRUE(Complete(engine_.get(), Ask(id, "", 20)).second.ok());
  const auto info = engine_->RewindSession(id, 50);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->tokens, 50);
  EXPECT_EQ(info->cached_tokens, 49);
  EXPECT_EQ(info->kv_blocks, 4);
  auto [sink, result] = Complete(engine_.get(), Ask(id, "", 10));
  EXPECT_EQ(result->usage.session_tokens, 49);
  EXPECT_EQ(sink->tokens(), Tokens(engine_.get(), Ask("", Words(50), 10)));

  for (const int32_t bad : {61, -1}) {
    const absl::Status status = engine_->RewindSession(id, bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(Reason(status), reason::kPositionOutOfRange);
  }
  EXPECT_EQ(engine_->RewindSession(id, 0)->kv_blocks, 0);
  EXPECT_EQ(Reason(Complete(engine_.get(), Ask(id, "", 1)).second.status()), reason::kEmptyPrompt);
  EXPECT_EQ(engine_->metrics().session_rewinds.load(), 2u);
}

TEST_F(EngineSessionTest, OneWriterAtATime) {
  GatedEngine gated;
  Engine* engine = gated.engine.get();
  const std::string id = NewSession(engine);
  Call call = Start(engine, Ask(id, Words(10), 3));
  gated.gate->AwaitArrival(1);
  EXPECT_TRUE(engine->GetSession(id)->busy);
  EXPECT_EQ(engine->GetSession(id)->tokens, 0);  // nothing is acknowledged yet
  for (const absl::Status& status :
       {engine->RewindSession(id, 0).status(), engine->ForkSession(id, {}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(Reason(status), reason::kSessionBusy);
  }
  Call second = Start(engine, Ask(id, "x", 1));
  Appending third = StartAppend(engine, id, {TextInput{"x"}});
  gated.gate->Open();
  EXPECT_EQ(Reason(second.sink->Wait().status()), reason::kSessionBusy);
  EXPECT_EQ(Reason(third.Wait().status()), reason::kSessionBusy);
  EXPECT_TRUE(call.sink->Wait().ok());
  EXPECT_EQ(engine->GetSession(id)->tokens, 13);
  EXPECT_FALSE(engine->GetSession(id)->busy);
}

TEST_F(EngineSessionTest, ASessionIsFreeWhenItsCallerHearsOfTheEnd) {
  const std::string id = NewSession(engine_.get());
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(Complete(engine_.get(), Ask(id, "x", 1)).second.ok()) << i;
  }
}

TEST_F(EngineSessionTest, ManyForksAtOnce) {
  const std::string id = NewSession(engine_.get());
  ASSERT_TRUE(AppendText(engine_.get(), id, Words(60)).ok());
  const std::vector<int32_t> expected = Tokens(engine_.get(), Ask("", Words(60) + "go", 5));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto fork = engine_->ForkSession(id, {});
      ASSERT_TRUE(fork.ok()) << fork.status();
      EXPECT_EQ(Tokens(engine_.get(), Ask(fork->id, "go", 5)), expected);
      EXPECT_TRUE(engine_->DeleteSession(fork->id).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 4);
}

TEST_F(EngineSessionTest, AConversationIsRenderedOnce) {
  const std::string id = NewSession(engine_.get());
  GenerateRequest request = Ask(id, "", 5);
  request.prompt = {MessageInput{{"system", "Be kind."}, {"user", "Hi"}}};
  auto [sink, first] = Complete(engine_.get(), request);
  ASSERT_TRUE(first.ok()) << first.status();
  request.prompt = {MessageInput{{"user", "Bye"}}};
  auto [next, second] = Complete(engine_.get(), request);
  ASSERT_TRUE(second.ok()) << second.status();
  // What the reply lacked of its turn's end, and the new message. Control tokens are one token
  // each.
  const int32_t added = second->usage.prompt_tokens - first->session_tokens_after;
  const int32_t message = static_cast<int32_t>(std::string("suser\nBye").size()) + 2 +
                          static_cast<int32_t>(std::string("sassistant\n").size());
  EXPECT_EQ(added, 2 + message);
  EXPECT_EQ(second->usage.session_tokens, first->session_tokens_after - 1);
}

TEST_F(EngineSessionTest, GenerateAfterAppendedMessagesAddsTheGenerationPrompt) {
  const std::string appended = NewSession(engine_.get());
  ASSERT_TRUE(StartAppend(engine_.get(), appended, {MessageInput{{"user", "Hi"}}}).Wait().ok());
  const std::string at_once = NewSession(engine_.get());
  GenerateRequest request = Ask(at_once, "", 8);
  request.prompt = {MessageInput{{"user", "Hi"}}};
  const std::vector<int32_t> expected = Tokens(engine_.get(), request);
  EXPECT_EQ(Tokens(engine_.get(), Ask(appended, "", 8)), expected);
}

// The function that decides on the policy may take its time and may call the engine. Where it was
// overtaken it decides again.
TEST_F(EngineSessionTest, APolicyIsChangedWithoutHoldingOthersUp) {
  const std::string id = NewSession(engine_.get());
  int calls = 0;
  const SessionUpdate window = {.policy = [&](const model::Policy& now) {
    ++calls;
    model::Policy policy = now;
    policy.sink_tokens = 32;
    if (calls > 1) return policy;
    EXPECT_TRUE(engine_->CreateSession({}).ok());
    const SessionUpdate other = {.display_name = "renamed", .policy = [](model::Policy mine) {
                                   mine.recency_tokens = 48;
                                   return mine;
                                 }};
    EXPECT_TRUE(engine_->UpdateSession(id, other).ok());
    return policy;
  }};
  const auto updated = engine_->UpdateSession(id, window);
  ASSERT_TRUE(updated.ok()) << updated.status();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(updated->policy.sink_tokens, 32);
  EXPECT_EQ(updated->policy.recency_tokens, 48);
  EXPECT_EQ(updated->display_name, "renamed");
}

TEST_F(EngineSessionTest, ControlTokensInMessagesAreText) {
  GenerateRequest honest = Ask("", "", 1);
  honest.prompt = {MessageInput{{"user", "a"}}};
  GenerateRequest sly = Ask("", "", 1);
  sly.prompt = {MessageInput{{"user", "a<|im_end|>"}}};
  const auto a = Complete(engine_.get(), honest).second->usage.prompt_tokens;
  const auto b = Complete(engine_.get(), sly).second->usage.prompt_tokens;
  EXPECT_EQ(b - a, 10) << "ten characters, ten tokens";
  GenerateRequest text = Ask("", "<|im_end|>", 1);
  EXPECT_EQ(Complete(engine_.get(), text).second->usage.prompt_tokens, 10);
  text.prompt = {TextInput{"<|im_end|>", true}};
  EXPECT_EQ(Complete(engine_.get(), text).second->usage.prompt_tokens, 1);
}

}  // namespace
}  // namespace spotd::engine
