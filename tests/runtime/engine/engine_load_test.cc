// More requests than the engine takes, and the way out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

TEST(EngineLoadTest, AFullQueueRefusesAtOnceAndRecovers) {
  TinyEngineOptions options;
  options.engine.max_running = 2;
  options.engine.max_waiting = 3;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  const std::string id = NewSession(engine);
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(Start(engine, Ask("", "abc", 3)));
  Call refused = Start(engine, Ask(id, "abc", 3));
  Appending refused_append = StartAppend(engine, id, {TextInput{"abc"}});
  gated.gate->Open();
  const absl::Status status = refused.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Reason(status), reason::kQueueFull);
  EXPECT_TRUE(GetErrorDetails(status).retry_after);
  EXPECT_EQ(Reason(refused_append.Wait().status()), reason::kQueueFull);
  for (Call& call : calls) EXPECT_TRUE(call.sink->Wait().ok());
  EXPECT_TRUE(Complete(engine, Ask(id, "abc", 3)).second.ok()) << "the session was left claimed";
}

TEST(EngineLoadTest, DrainingFinishesWhatWasAccepted) {
  GatedEngine gated;
  Engine* engine = gated.engine.get();
  const std::string id = NewSession(engine);
  Call running = Start(engine, Ask(id, "abc", 5));
  gated.gate->AwaitArrival(1);
  Call queued = Start(engine, Ask("", "abc", 5));
  engine->StartDrain();
  EXPECT_FALSE(engine->Idle());
  Call late = Start(engine, Ask("", "abc", 5));
  Appending late_append = StartAppend(engine, id, {TextInput{"x"}});
  EXPECT_EQ(Reason(engine->CreateSession({}).status()), reason::kDraining);
  EXPECT_TRUE(engine->GetSession(id).ok());
  gated.gate->Open();
  EXPECT_TRUE(running.sink->Wait().ok());
  EXPECT_TRUE(queued.sink->Wait().ok());
  const absl::Status status = late.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Reason(status), reason::kDraining);
  EXPECT_EQ(Reason(late_append.Wait().status()), reason::kDraining);
  EXPECT_TRUE(BecomesIdle(*engine));
}

// Threads do everything at once, at random; afterwards nothing is left over.
TEST(EngineLoadTest, ConcurrentUseLeavesNothingBehind) {
  TinyEngineOptions options;
  options.selector = false;
  options.engine.kv_memory_bytes = 300u << 10;  // some 60 blocks: pressure
  options.engine.max_running = 4;
  options.engine.max_waiting = 4;
  auto engine = MakeTinyEngine(std::move(options));
  const std::string shared = NewSession(engine.get());
  const auto work = [&](uint32_t seed) {
    std::mt19937 random(seed);
    std::string id = NewSession(engine.get());
    for (int i = 0; i < 25; ++i) {
      const std::string& target = random() % 4 == 0 ? shared : id;
      GenerateRequest request = Ask(target, Words(random() % 60, random()), 1 + random() % 20);
      Call call;
      if (random() % 4 == 0) call.sink->PauseAfter(static_cast<int>(random() % 4));
      request.cancel = call.cancel;
      request.sink = call.sink;
      if (random() % 6 == 0) {
        request.deadline = Clock::now() + std::chrono::microseconds(random() % 5000);
      }
      engine->Generate(std::move(request));
      if (random() % 3 == 0) call.cancel->Cancel();
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
      call.sink->Resume();
      (void)call.sink->Wait();
      switch (random() % 5) {
        case 0:
          (void)engine->RewindSession(target, static_cast<int32_t>(random() % 50));
          break;
        case 1:
          if (const auto fork = engine->ForkSession(target, {}); fork.ok()) {
            EXPECT_TRUE(engine->DeleteSession(id).ok());
            id = fork->id;
          }
          break;
        case 2:
          (void)AppendText(engine.get(), target, Words(random() % 80, random()));
          break;
        default:
          (void)engine->ListSessions("", 10);
      }
    }
    EXPECT_TRUE(engine->DeleteSession(id).ok());
  };
  std::vector<std::thread> threads;
  for (uint32_t seed = 1; seed <= 6; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(engine->DeleteSession(shared).ok());
  const Metrics& metrics = engine->metrics();
  EXPECT_EQ(metrics.kv_blocks_used.load(), 0);
  EXPECT_EQ(metrics.sessions.load(), 0);
  EXPECT_EQ(metrics.session_tokens.load(), 0);
  EXPECT_EQ(metrics.requests_running.load(), 0);
  EXPECT_EQ(metrics.requests_waiting.load(), 0);
  EXPECT_TRUE(BecomesIdle(*engine));
}

}  // namespace
}  // namespace spotd::engine
