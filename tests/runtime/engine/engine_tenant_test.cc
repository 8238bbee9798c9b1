// Tenants: what is one's does not exist for another, has its limits, and gets its share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

constexpr size_t kBlockBytes = 2 * (2 * 2 * 16 * 16 * 2 + 2 * 2 * 16 * 2);

SessionOptions OptionsOf(const std::string& tenant) {
  SessionOptions options;
  options.tenant = tenant;
  return options;
}

std::string NewSessionOf(Engine* engine, const std::string& tenant) {
  const auto info = engine->CreateSession(OptionsOf(tenant));
  EXPECT_TRUE(info.ok()) << info.status();
  return info.ok() ? info->id : "";
}

GenerateRequest AskAs(const std::string& tenant, std::string session, std::string prompt,
                      int32_t max_tokens) {
  GenerateRequest request = Ask(std::move(session), std::move(prompt), max_tokens);
  request.tenant = tenant;
  return request;
}

TEST(EngineTenantTest, ASessionExistsForItsTenantOnly) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSessionOf(engine.get(), "a");
  EXPECT_TRUE(engine->GetSession({id, "a"}).ok());
  EXPECT_EQ(Reason(engine->GetSession({id, "b"}).status()), reason::kSessionNotFound);
  EXPECT_THAT(engine->ListSessions({"", "a"}, 10), SizeIs(1));
  EXPECT_THAT(engine->ListSessions({"", "b"}, 10), SizeIs(0));
  EXPECT_EQ(Reason(engine->ForkSession({id, "b"}, {}).status()), reason::kSessionNotFound);
  EXPECT_EQ(Reason(engine->RewindSession({id, "b"}, 0).status()), reason::kSessionNotFound);
  EXPECT_EQ(Reason(engine->Selection({id, "b"}).status()), reason::kSessionNotFound);
  EXPECT_EQ(Reason(Complete(engine.get(), AskAs("b", id, "x", 1)).second.status()),
            reason::kSessionNotFound);
  EXPECT_EQ(Reason(engine->DeleteSession({id, "b"})), reason::kSessionNotFound);
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", id, "x", 1)).second.ok());
  // A fork is its parent's tenant's, whatever the options say.
  const std::string fork = engine->ForkSession({id, "a"}, {})->id;
  EXPECT_TRUE(engine->GetSession({fork, "a"}).ok());
}

TEST(EngineTenantTest, SessionsAndTokensAreLimited) {
  TinyEngineOptions options;
  options.engine.sessions.tenant = {.max_sessions = 2, .max_session_tokens = 100};
  auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSessionOf(engine.get(), "a");
  const std::string other = NewSessionOf(engine.get(), "a");
  const absl::Status sessions = engine->CreateSession(OptionsOf("a")).status();
  EXPECT_EQ(sessions.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(sessions), reason::kTenantSessionLimit);
  EXPECT_TRUE(GetErrorDetails(sessions).retry_after);
  NewSessionOf(engine.get(), "b");

  ASSERT_TRUE(Complete(engine.get(), AskAs("a", id, Words(79), 1)).second.ok());
  const absl::Status tokens =
      Complete(engine.get(), AskAs("a", other, Words(21), 1)).second.status();
  EXPECT_EQ(tokens.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(tokens), reason::kTenantTokenLimit);
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", "", Words(300), 1)).second.ok())
      << "no session keeps these";
  ASSERT_TRUE(engine->DeleteSession({other, "a"}).ok());
  EXPECT_EQ(Reason(engine->ForkSession({id, "a"}, {}).status()), reason::kTenantTokenLimit);
  ASSERT_TRUE(engine->RewindSession({id, "a"}, 10).ok());
  EXPECT_TRUE(engine->ForkSession({id, "a"}, {}).ok());
}

// What running requests add counts while they run: two at a time may not have together what each
// may have alone.
TEST(EngineTenantTest, TokensOfRunningRequestsCount) {
  TinyEngineOptions options;
  options.engine.sessions.tenant = {.max_session_tokens = 100};
  auto engine = MakeTinyEngine(std::move(options));
  const std::string first = NewSessionOf(engine.get(), "a");
  const std::string second = NewSessionOf(engine.get(), "a");
  Call running = Start(engine.get(), AskAs("a", first, Words(60), 20), 2);
  running.sink->WaitForTokens(2);
  EXPECT_EQ(Reason(Complete(engine.get(), AskAs("a", second, Words(40), 1)).second.status()),
            reason::kTenantTokenLimit);
  EXPECT_TRUE(
      Complete(engine.get(), AskAs("b", NewSessionOf(engine.get(), "b"), Words(90), 1)).second.ok())
      << "another tenant's";
  running.sink->Resume();
  ASSERT_TRUE(running.sink->Wait().ok());
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", second, Words(19), 1)).second.ok());
  EXPECT_EQ(Reason(Complete(engine.get(), AskAs("a", first, "", 1)).second.status()),
            reason::kTenantTokenLimit)
      << "there is no room for one token";
  ASSERT_TRUE(engine->DeleteSession({second, "a"}).ok());
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", first, Words(19), 1)).second.ok());
}

// A tenant's limit holds while its replies grow. What was delivered stays.
TEST(EngineTenantTest, AReplyThatGrowsBeyondItsTenantsTokensEnds) {
  TinyEngineOptions options;
  options.engine.sessions.tenant = {.max_session_tokens = 100};
  auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSessionOf(engine.get(), "a");
  Call call = Start(engine.get(), AskAs("a", id, Words(90), 50));
  const absl::Status status = call.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(status), reason::kTenantTokenLimit);
  EXPECT_EQ(call.sink->tokens().size(), 10u);
  EXPECT_EQ(engine->GetSession({id, "a"})->tokens, 100);
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", "", Words(90), 50)).second.ok())
      << "no session keeps these";
  ASSERT_TRUE(engine->RewindSession({id, "a"}, 80).ok());
  GenerateRequest whole = AskAs("a", id, Words(10), 50);
  whole.request_id = "r";
  EXPECT_EQ(Reason(Complete(engine.get(), std::move(whole)).second.status()),
            reason::kTenantTokenLimit);
  EXPECT_EQ(engine->GetSession({id, "a"})->tokens, 80) << "all or nothing";
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", id, Words(10), 10)).second.ok());
}

TEST(EngineTenantTest, ATenantCannotFillTheQueueForOthers) {
  TinyEngineOptions options;
  options.engine.max_running = 1;
  options.engine.sessions.tenant.max_requests = 2;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  Call first = Start(engine, AskAs("a", "", "abc", 2));
  Call second = Start(engine, AskAs("a", "", "abc", 2));
  Call third = Start(engine, AskAs("a", "", "abc", 2));
  Call other = Start(engine, AskAs("b", "", "abc", 2));
  gated.gate->Open();
  EXPECT_EQ(Reason(third.sink->Wait().status()), reason::kTenantRequestLimit);
  for (Call* call : {&first, &second, &other}) EXPECT_TRUE(call->sink->Wait().ok());
}

TEST(EngineTenantTest, KvIsLimitedAndOnesOwnIdleSessionsMakeRoom) {
  TinyEngineOptions options;
  options.selector = false;
  options.engine.kv_memory_bytes = 20 * kBlockBytes;
  options.engine.sessions.tenant.max_kv_share = 0.5;
  auto engine = MakeTinyEngine(std::move(options));
  const std::string b = NewSessionOf(engine.get(), "b");
  ASSERT_TRUE(Complete(engine.get(), AskAs("b", b, Words(60, 7), 1)).second.ok());
  const std::string first = NewSessionOf(engine.get(), "a");
  const std::string second = NewSessionOf(engine.get(), "a");
  ASSERT_TRUE(Complete(engine.get(), AskAs("a", first, Words(90, 1), 1)).second.ok());
  ASSERT_TRUE(Complete(engine.get(), AskAs("a", second, Words(90, 2), 1)).second.ok());
  EXPECT_EQ(engine->GetSession({first, "a"})->cached_tokens, 0) << "its own gave way";
  EXPECT_EQ(engine->GetSession({b, "b"})->cached_tokens, 60) << "and not another's";
  EXPECT_EQ(engine->GetSession({second, "a"})->cached_tokens, 90);
  // More than its limit even alone.
  const absl::Status status = Complete(engine.get(), AskAs("a", "", Words(170), 1)).second.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(status), reason::kTenantKvLimit);
  EXPECT_EQ(engine->GetSession({second, "a"})->cached_tokens, 90) << "dropped for nothing";
}

// A tenant's limit holds while its replies grow, not only when they begin. What was delivered
// stays, and others go on.
TEST(EngineTenantTest, AReplyThatGrowsBeyondItsTenantsKvEnds) {
  TinyEngineOptions options;
  options.selector = false;
  options.engine.kv_memory_bytes = 20 * kBlockBytes;
  options.engine.sessions.tenant.max_kv_share = 0.3;  // 6 blocks
  auto engine = MakeTinyEngine(std::move(options));
  const std::string idle = NewSessionOf(engine.get(), "a");
  ASSERT_TRUE(Complete(engine.get(), AskAs("a", idle, Words(20, 3), 1)).second.ok());
  const std::string id = NewSessionOf(engine.get(), "a");
  Call other = Start(engine.get(), AskAs("b", "", Words(20, 2), 60));
  Call call = Start(engine.get(), AskAs("a", id, Words(60), 200));
  const absl::Status status = call.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(status), reason::kTenantKvLimit);
  EXPECT_TRUE(other.sink->Wait().ok());
  EXPECT_EQ(call.sink->tokens().size(), 37u) << "96 positions, and the token after them";
  EXPECT_EQ(engine->GetSession({idle, "a"})->cached_tokens, 0) << "its idle session gave way first";
  const SessionInfo info = *engine->GetSession({id, "a"});
  EXPECT_EQ(info.tokens, 97);
  EXPECT_FALSE(info.busy);
  ASSERT_TRUE(engine->RewindSession({id, "a"}, 80).ok());
  EXPECT_TRUE(Complete(engine.get(), AskAs("a", id, "x", 5)).second.ok());
}

// One place among the running. "a" has sent many requests before "b" sends two, with a higher
// priority on "a"'s last: they are admitted in turns, by priority inside a tenant.
TEST(EngineTenantTest, TenantsTakeTurnsAndPrioritiesCountInsideOne) {
  TinyEngineOptions options;
  options.engine.max_running = 1;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  std::vector<std::string> order;
  std::mutex mutex;
  class NamedSink : public RecordingSink {
   public:
    NamedSink(std::string name, std::vector<std::string>* order, std::mutex* mutex)
        : name_(std::move(name)), order_(order), mutex_(mutex) {}
    void OnDone(absl::StatusOr<GenerateResult> result) override {
      {
        const std::lock_guard lock(*mutex_);
        order_->push_back(name_);
      }
      RecordingSink::OnDone(std::move(result));
    }

   private:
    std::string name_;
    std::vector<std::string>* order_;
    std::mutex* mutex_;
  };
  std::vector<std::shared_ptr<NamedSink>> sinks;
  const auto send = [&](const std::string& tenant, const std::string& name, int32_t priority) {
    GenerateRequest request = AskAs(tenant, "", Words(20), 3);
    request.priority = priority;
    sinks.push_back(std::make_shared<NamedSink>(name, &order, &mutex));
    request.sink = sinks.back();
    request.cancel = std::make_shared<CancelToken>();
    engine->Generate(std::move(request));
  };
  send("a", "a1", 0);
  gated.gate->AwaitArrival(1);
  send("a", "a2", 0);
  send("a", "a3", 0);
  send("a", "a4", 1);
  send("b", "b1", 0);
  send("b", "b2", 0);
  gated.gate->Open();
  for (const auto& sink : sinks) EXPECT_TRUE(sink->Wait().ok());
  EXPECT_THAT(order, ElementsAre("a1", "b1", "a4", "b2", "a2", "a3"));
}

// Long replies of one tenant fill every place; another's request does not wait for their end.
TEST(EngineTenantTest, ATenantWithSeveralPlacesGivesOneUp) {
  TinyEngineOptions options;
  options.engine.max_running = 2;
  options.engine.tenant_patience = std::chrono::milliseconds(0);
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  Call first = Start(engine, AskAs("a", "", Words(20), 1000));
  Call second = Start(engine, AskAs("a", "", Words(20), 1000));
  gated.gate->AwaitArrival(1);
  gated.gate->LetPass(20);
  gated.gate->AwaitArrival(21);
  Call own = Start(engine, AskAs("a", "", Words(20, 3), 2));
  Call other = Start(engine, AskAs("b", "", Words(20, 2), 3));
  gated.gate->LetPass(20);
  ASSERT_TRUE(other.sink->Wait().ok());
  gated.gate->AwaitArrival(41);
  EXPECT_FALSE(first.sink->done());
  EXPECT_FALSE(second.sink->done());
  EXPECT_FALSE(own.sink->done()) << "its own tenant's can wait";
  EXPECT_EQ(engine->metrics().preemptions.load(), 1u);
  gated.gate->Open();
  ASSERT_TRUE(first.sink->Wait().ok());
  ASSERT_TRUE(second.sink->Wait().ok());
  EXPECT_EQ(first.sink->tokens(), second.sink->tokens()) << "what was given up came back";
  EXPECT_TRUE(own.sink->Wait().ok());
}

}  // namespace
}  // namespace spotd::engine
