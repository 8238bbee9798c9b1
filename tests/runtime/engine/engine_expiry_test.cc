// Sessions that end by themselves, on a clock of the test's own.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using std::chrono::seconds;

class EngineExpiryTest : public ::testing::Test {
 protected:
  std::unique_ptr<Engine> Make(seconds default_ttl = seconds(0), seconds max_ttl = seconds(0)) {
    TinyEngineOptions options;
    options.engine.sessions.now_ms = [now = now_] { return now->load(); };
    options.engine.sessions.default_ttl = default_ttl;
    options.engine.sessions.max_ttl = max_ttl;
    return MakeTinyEngine(std::move(options));
  }
  void Pass(seconds time) { now_->fetch_add(std::chrono::milliseconds(time).count()); }
  static SessionOptions Ttl(seconds ttl) {
    SessionOptions options;
    options.ttl = ttl;
    return options;
  }

  std::shared_ptr<std::atomic<int64_t>> now_ =
      std::make_shared<std::atomic<int64_t>>(1'700'000'000'000);
};

TEST_F(EngineExpiryTest, AnIdleSessionEndsAndEveryUseRenewsIt) {
  auto engine = Make();
  const SessionInfo info = *engine->CreateSession(Ttl(seconds(60)));
  EXPECT_EQ(info.ttl_ms, 60000);
  EXPECT_EQ(info.expire_time_ms, now_->load() + 60000);
  Pass(seconds(59));
  ASSERT_TRUE(AppendText(engine.get(), info.id, Words(40)).ok());
  EXPECT_EQ(engine->GetSession(info.id)->expire_time_ms, now_->load() + 60000);
  Pass(seconds(59));
  ASSERT_TRUE(engine->RewindSession(info.id, 35).ok());
  Pass(seconds(59));
  ASSERT_TRUE(engine->ForkSession(info.id, {}).ok());
  Pass(seconds(59));
  EXPECT_TRUE(engine->GetSession(info.id).ok()) << "looking at it is no use of it";
  Pass(seconds(1));
  EXPECT_EQ(Reason(engine->GetSession(info.id).status()), reason::kSessionNotFound);
  EXPECT_EQ(Reason(AppendText(engine.get(), info.id, "x").status()), reason::kSessionNotFound);
  EXPECT_EQ(engine->ListSessions("", 10).size(), 1u) << "the fork, which has no time to live";
}

// google.protobuf.Timestamp ends with the year 9999: a later end could not be told to a client.
TEST_F(EngineExpiryTest, TheLongestTimeToLiveEndsWhenTimeDoes) {
  constexpr int64_t kEndOfTime = 253'402'300'799'999;
  auto engine = Make();
  const SessionInfo info = *engine->CreateSession(Ttl(seconds(315'576'000'000)));
  EXPECT_EQ(info.ttl_ms, 315'576'000'000'000);
  EXPECT_EQ(info.expire_time_ms, kEndOfTime);
  ASSERT_TRUE(AppendText(engine.get(), info.id, "x").ok());
  EXPECT_EQ(engine->GetSession(info.id)->expire_time_ms, kEndOfTime) << "renewed";
}

TEST_F(EngineExpiryTest, ItsKvComesBack) {
  auto engine = Make();
  const std::string id = engine->CreateSession(Ttl(seconds(60)))->id;
  ASSERT_TRUE(AppendText(engine.get(), id, Words(100)).ok());
  EXPECT_GT(engine->metrics().kv_blocks_used.load(), 0);
  Pass(seconds(60));
  // Anything that the engine does makes it look.
  ASSERT_TRUE(Complete(engine.get(), Ask("", "x", 1)).second.ok());
  EXPECT_TRUE(Eventually([&] { return engine->metrics().kv_blocks_used.load() == 0; }));
  EXPECT_EQ(engine->metrics().sessions.load(), 0);
  EXPECT_EQ(engine->metrics().session_tokens.load(), 0);
  EXPECT_EQ(engine->metrics().sessions_expired.load(), 1u);
}

TEST_F(EngineExpiryTest, AnEngineWithNothingToDoWakesUpForIt) {
  TinyEngineOptions options;
  options.engine.sessions.default_ttl = std::chrono::milliseconds(20);  // of the real clock
  auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSession(engine.get());
  AppendText(engine.get(), id, Words(100)).IgnoreError();
  EXPECT_TRUE(Eventually([&] { return engine->metrics().kv_blocks_used.load() == 0; }));
}

TEST_F(EngineExpiryTest, AnEndSetWhileItSleepsWakesItToo) {
  auto engine = MakeTinyEngine();
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(100)).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until it sleeps
  ASSERT_GT(engine->metrics().kv_blocks_used.load(), 0);
  const SessionUpdate update = {.expiry = true, .ttl = std::chrono::milliseconds(20)};
  ASSERT_TRUE(engine->UpdateSession(id, update).ok());
  EXPECT_TRUE(Eventually([&] { return engine->metrics().kv_blocks_used.load() == 0; }));
}

TEST_F(EngineExpiryTest, NotWhileACallWorksOnIt) {
  auto engine = Make();
  const std::string id = engine->CreateSession(Ttl(seconds(1)))->id;
  Call call = Start(engine.get(), Ask(id, "abc", 20), 2);
  call.sink->WaitForTokens(2);
  Pass(seconds(3600));
  EXPECT_TRUE(engine->GetSession(id).ok());
  call.sink->Resume();
  EXPECT_TRUE(call.sink->Wait().ok());
  EXPECT_TRUE(engine->GetSession(id).ok()) << "it was used just now";
  Pass(seconds(1));
  EXPECT_FALSE(engine->GetSession(id).ok());
}

TEST_F(EngineExpiryTest, AFixedEndIsNotRenewed) {
  auto engine = Make();
  SessionOptions options;
  options.expire_time_ms = now_->load() + 5000;
  const std::string id = engine->CreateSession(options)->id;
  Pass(seconds(4));
  ASSERT_TRUE(AppendText(engine.get(), id, "x").ok());
  Pass(seconds(1));
  EXPECT_FALSE(engine->GetSession(id).ok());
  options.expire_time_ms = now_->load();
  const absl::Status past = engine->CreateSession(options).status();
  EXPECT_EQ(GetErrorDetails(past).field, "session.expire_time");
  EXPECT_EQ(GetErrorDetails(engine->CreateSession(Ttl(seconds(0))).status()).field, "session.ttl");
}

TEST_F(EngineExpiryTest, TheOperatorSetsDefaultAndBound) {
  auto engine = Make(seconds(30), seconds(100));
  EXPECT_EQ(engine->CreateSession({})->ttl_ms, 30000);
  EXPECT_EQ(engine->CreateSession(Ttl(seconds(50)))->ttl_ms, 50000);
  EXPECT_EQ(engine->CreateSession(Ttl(seconds(5000)))->ttl_ms, 100000);
  SessionOptions options;
  options.expire_time_ms = now_->load() + 1'000'000;
  EXPECT_EQ(engine->CreateSession(options)->expire_time_ms, now_->load() + 100'000);
  auto bounded = Make(seconds(0), seconds(100));
  EXPECT_EQ(bounded->CreateSession({})->ttl_ms, 100000) << "for ever is more than the bound";
}

// Expired sessions count against no limit.
TEST_F(EngineExpiryTest, ExpiredSessionsMakeRoomForNewOnes) {
  TinyEngineOptions options;
  options.engine.sessions.now_ms = [now = now_] { return now->load(); };
  options.engine.sessions.max_sessions = 1;
  auto engine = MakeTinyEngine(std::move(options));
  ASSERT_TRUE(engine->CreateSession(Ttl(seconds(1))).ok());
  EXPECT_EQ(Reason(engine->CreateSession({}).status()), reason::kSessionLimit);
  Pass(seconds(1));
  EXPECT_TRUE(engine->CreateSession({}).ok());
}

}  // namespace
}  // namespace spotd::engine
