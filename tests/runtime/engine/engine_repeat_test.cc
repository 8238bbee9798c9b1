// Requests that carry an id happen once, however often they are sent; etags guard against changes
// by others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/engine/request_log.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::SizeIs;

class EngineRepeatTest : public ::testing::Test {
 protected:
  absl::StatusOr<AppendResult> Append(const std::string& text, const std::string& request_id,
                                      const std::string& etag = "", uint64_t fingerprint = 1) {
    AppendRequest request;
    request.session_id = id_;
    request.input = {TextInput{text}};
    request.request_id = request_id;
    request.fingerprint = fingerprint;
    request.etag = etag;
    request.cancel = std::make_shared<CancelToken>();
    // Shared: the engine's thread may still be in set_value when this one has the result.
    const auto promise = std::make_shared<std::promise<absl::StatusOr<AppendResult>>>();
    auto future = promise->get_future();
    request.on_done = [promise](absl::StatusOr<AppendResult> result) {
      promise->set_value(std::move(result));
    };
    engine_->Append(std::move(request));
    return future.get();
  }

  GenerateRequest AskOnce(const std::string& prompt, int max_tokens, const std::string& id) {
    GenerateRequest request = Ask(id_, prompt, max_tokens);
    request.request_id = id;
    request.fingerprint = 1;
    return request;
  }
  int32_t Length() { return engine_->GetSession(id_)->tokens; }
  std::string Etag() { return engine_->GetSession(id_)->etag; }

  GatedEngine gated_;
  Engine* engine_ = gated_.engine.get();
  std::string id_ = NewSession(engine_);
  void SetUp() override { gated_.gate->Open(); }
};

TEST_F(EngineRepeatTest, AnAppendSentTwiceAppendsOnce) {
  const auto first = Append("some words", "id-1");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(first->replayed);
  const auto second = Append("some words", "id-1");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(second->replayed);
  EXPECT_EQ(second->appended_tokens, first->appended_tokens);
  EXPECT_EQ(second->session_tokens_after, first->session_tokens_after);
  EXPECT_EQ(Length(), 10);
  EXPECT_TRUE(Append("some words", "id-2").ok()) << "another id is another request";
  EXPECT_EQ(Length(), 20);
}

TEST_F(EngineRepeatTest, AGenerateSentTwiceIsAnsweredFromMemory) {
  GenerateRequest request = AskOnce("prompt", 6, "id-1");
  request.sampling.params.temperature = 1;
  request.top_logprobs = 2;
  auto [first, first_result] = Complete(engine_, request);
  ASSERT_TRUE(first_result.ok()) << first_result.status();
  const uint64_t steps = engine_->metrics().engine_steps.load();
  auto [second, second_result] = Complete(engine_, request);
  ASSERT_TRUE(second_result.ok()) << second_result.status();
  EXPECT_TRUE(second_result->replayed);
  EXPECT_EQ(second->tokens(), first->tokens());
  EXPECT_EQ(second->text(), first->text());
  EXPECT_EQ(second->logprobs(), first->logprobs());
  EXPECT_THAT(second->events()[3].top, SizeIs(2));
  EXPECT_EQ(second_result->seed, first_result->seed);
  EXPECT_EQ(second_result->usage.prompt_tokens, first_result->usage.prompt_tokens);
  EXPECT_EQ(Length(), 12);
  EXPECT_EQ(engine_->metrics().engine_steps.load(), steps) << "it computed something";
}

TEST_F(EngineRepeatTest, AnotherRequestWithTheSameIdIsRefused) {
  ASSERT_TRUE(Append("some words", "id-1", "", 1).ok());
  const absl::Status other = Append("other words", "id-1", "", 2).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Reason(other), reason::kRequestIdReused);
  EXPECT_EQ(Reason(Complete(engine_, AskOnce("x", 1, "id-1")).second.status()),
            reason::kRequestIdReused);
  EXPECT_EQ(Length(), 10);
}

TEST_F(EngineRepeatTest, AGenerateThatFailsLeavesNothingAndCanBeSentAgain) {
  ASSERT_TRUE(Append("before ", "").ok());
  const std::vector<int32_t> expected = Tokens(engine_, Ask("", "before prompt", 6));
  Call call = Start(engine_, AskOnce("prompt", 60, "id-1"), 3);
  call.sink->WaitForTokens(3);
  call.cancel->Cancel();
  EXPECT_FALSE(call.sink->Wait().ok());
  EXPECT_EQ(Length(), 7) << "not even the prompt";
  auto [sink, result] = Complete(engine_, AskOnce("prompt", 6, "id-1"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->replayed);
  EXPECT_EQ(sink->tokens(), expected);
  EXPECT_EQ(Length(), 19);
}

TEST_F(EngineRepeatTest, WhileTheFirstIsRunningTheSecondIsTurnedAway) {
  Call call = Start(engine_, AskOnce("prompt", 60, "id-1"), 1);
  call.sink->WaitForTokens(1);
  EXPECT_EQ(Reason(Complete(engine_, AskOnce("prompt", 60, "id-1")).second.status()),
            reason::kSessionBusy);
  call.sink->Resume();
  EXPECT_TRUE(call.sink->Wait().ok());
  EXPECT_TRUE(Complete(engine_, AskOnce("prompt", 60, "id-1")).second->replayed);
}

// What was generated is kept of the latest only: memory stays in proportion to the session.
TEST_F(EngineRepeatTest, OfEarlierRepliesTheResultIsRemembered) {
  const auto first = Complete(engine_, AskOnce("one", 4, "id-1")).second;
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(Complete(engine_, AskOnce("two", 5, "id-2")).second.ok());
  Call again = Start(engine_, AskOnce("one", 4, "id-1"));
  ASSERT_TRUE(Eventually([&] { return again.sink->done(); }));
  EXPECT_TRUE(again.sink->tokens().empty());
  auto [sink, result] = Complete(engine_, AskOnce("two", 5, "id-2"));
  EXPECT_TRUE(result->replayed);
  EXPECT_EQ(sink->tokens().size(), 5u);
  EXPECT_EQ(Length(), 15);
}

TEST_F(EngineRepeatTest, OnlyTheLatestAreRemembered) {
  for (int i = 0; i <= static_cast<int>(RequestLog::kKept); ++i) {
    ASSERT_TRUE(Append("x", "id-" + std::to_string(i)).ok());
  }
  EXPECT_TRUE(Append("x", "id-1")->replayed);
  EXPECT_FALSE(Append("x", "id-0")->replayed);
}

TEST_F(EngineRepeatTest, AForkAnswersForItself) {
  ASSERT_TRUE(Append("x", "id-1").ok());
  id_ = engine_->ForkSession(id_, {})->id;
  EXPECT_FALSE(Append("x", "id-1")->replayed);
  EXPECT_EQ(Length(), 2);
}

TEST_F(EngineRepeatTest, EtagsGuardAgainstChangesByOthers) {
  const std::string empty = Etag();
  ASSERT_TRUE(Append("one", "", empty).ok());
  const std::string one = Etag();
  EXPECT_NE(one, empty);
  const absl::Status stale = Append("two", "", empty).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Reason(stale), reason::kEtagMismatch);
  EXPECT_EQ(GetErrorDetails(stale).metadata.at("etag"), one);
  EXPECT_EQ(Reason(engine_->RewindSession({id_, kDefaultTenant, empty}, 1).status()),
            reason::kEtagMismatch);
  EXPECT_EQ(Reason(engine_->ForkSession({id_, kDefaultTenant, empty}, {}).status()),
            reason::kEtagMismatch);
  EXPECT_EQ(Reason(engine_->DeleteSession({id_, kDefaultTenant, empty})), reason::kEtagMismatch);
  EXPECT_EQ(Length(), 3);
  EXPECT_TRUE(engine_->RewindSession({id_, kDefaultTenant, one}, 1).ok());
  EXPECT_NE(Etag(), one);
  EXPECT_TRUE(engine_->DeleteSession({id_, kDefaultTenant, Etag()}).ok());
}

// The etag is from before the append, as it must be when the answer was lost.
TEST_F(EngineRepeatTest, ARepeatedRequestMayCarryItsOldEtag) {
  const std::string empty = Etag();
  ASSERT_TRUE(Append("one", "id-1", empty).ok());
  const auto again = Append("one", "id-1", empty);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->replayed);
}

TEST_F(EngineRepeatTest, ASessionIsCreatedOnceForARequest) {
  SessionOptions options;
  options.request_id = "create-1";
  const std::string first = engine_->CreateSession(options)->id;
  EXPECT_EQ(engine_->CreateSession(options)->id, first);
  options.tenant = "other";
  EXPECT_NE(engine_->CreateSession(options)->id, first) << "ids are each tenant's own";
  options.tenant = kDefaultTenant;
  ASSERT_TRUE(engine_->DeleteSession(first).ok());
  EXPECT_NE(engine_->CreateSession(options)->id, first);
  options.request_id = "fork-1";
  const std::string fork = engine_->ForkSession(id_, options)->id;
  EXPECT_EQ(engine_->ForkSession(id_, options)->id, fork);
}

}  // namespace
}  // namespace spotd::engine
