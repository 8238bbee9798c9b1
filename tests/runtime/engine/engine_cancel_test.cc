#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// What a session must still be able to do after a request on it was broken off.
void ExpectUsable(Engine* engine, const std::string& id, const std::string& content) {
  EXPECT_FALSE(engine->GetSession(id)->busy);
  EXPECT_EQ(engine->GetSession(id)->tokens, static_cast<int32_t>(content.size()));
  EXPECT_EQ(Tokens(engine, Ask(id, "+", 6)), Tokens(engine, Ask("", content + "+", 6)));
}

class EngineCancelTest : public ::testing::Test {
 protected:
  EngineCancelTest() : engine_(gated_.engine.get()), id_(NewSession(engine_)) {}

  // Appends text while the gate lets everything pass.
  void Fill(const std::string& text) {
    gated_.GoByTheGate();
    ASSERT_TRUE(AppendText(engine_, id_, text).ok());
    gated_.StopAtGate();
  }

  GatedEngine gated_;
  Engine* engine_;
  std::string id_;
};

TEST_F(EngineCancelTest, InTheQueue) {
  // The engine is held in a step of another request; ours is still in the queue.
  Call other = Start(engine_, Ask("", Words(10), 2));
  gated_.gate->AwaitArrival(1);
  Call call = Start(engine_, Ask(id_, Words(50), 5));
  call.cancel->Cancel();
  gated_.gate->Open();
  const absl::Status status = call.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Reason(status), reason::kCancelled);
  EXPECT_TRUE(other.sink->Wait().ok());
  EXPECT_EQ(engine_->metrics().prompt_tokens_computed.load(), 10u) << "it computed something";
  ExpectUsable(engine_, id_, "");
}

TEST_F(EngineCancelTest, InPrefillStopsWithinAStep) {
  Fill("kept");
  Call call = Start(engine_, Ask(id_, Words(320), 5));
  gated_.gate->AwaitArrival(1);
  gated_.gate->LetPass(1);
  gated_.gate->AwaitArrival(2);
  call.cancel->Cancel();
  gated_.gate->Open();
  EXPECT_EQ(call.sink->Wait().status().code(), absl::StatusCode::kCancelled);
  // Two chunks of 32 of this request, and three tokens of the session before it.
  EXPECT_EQ(engine_->metrics().prompt_tokens_computed.load(), 64u + 3);
  EXPECT_EQ(engine_->GetSession(id_)->cached_tokens, 3);
  ExpectUsable(engine_, id_, "kept");
}

TEST_F(EngineCancelTest, AnAppendIsAllOrNothing) {
  Fill("kept");
  Appending appending = StartAppend(engine_, id_, {TextInput{Words(320)}});
  gated_.gate->AwaitArrival(1);
  appending.cancel->Cancel();
  gated_.gate->Open();
  EXPECT_EQ(appending.Wait().status().code(), absl::StatusCode::kCancelled);
  ExpectUsable(engine_, id_, "kept");
}

TEST_F(EngineCancelTest, InDecodeKeepsWhatWasDelivered) {
  Call call = Start(engine_, Ask(id_, "abc", 100));
  gated_.gate->LetPass(4);  // one chunk of prefill, three tokens
  call.sink->WaitForTokens(3);
  gated_.gate->AwaitArrival(5);
  call.cancel->Cancel();
  gated_.gate->Open();
  EXPECT_EQ(call.sink->Wait().status().code(), absl::StatusCode::kCancelled);
  // The step that was running still delivered its token.
  EXPECT_THAT(call.sink->tokens(), SizeIs(4));
  std::vector<int32_t> tokens = call.sink->tokens();
  EXPECT_EQ(engine_->GetSession(id_)->tokens, 3 + 4);
  for (const int32_t token : Tokens(engine_, Ask(id_, "", 4))) tokens.push_back(token);
  EXPECT_EQ(tokens, Tokens(engine_, Ask("", "abc", 8)));
}

TEST_F(EngineCancelTest, DeadlinesInEveryPhase) {
  const auto expired = [](GenerateRequest request) {
    request.deadline = Clock::now() - std::chrono::milliseconds(1);
    return request;
  };
  Call other = Start(engine_, Ask("", Words(10), 2));
  gated_.gate->AwaitArrival(1);
  Call queued = Start(engine_, expired(Ask(id_, Words(50), 5)));
  gated_.gate->Open();
  EXPECT_EQ(Reason(queued.sink->Wait().status()), reason::kDeadlineExceeded);
  ASSERT_TRUE(other.sink->Wait().ok());

  // The deadline passes in the first step of the prefill, or in the first after a token.
  for (const int32_t prompt : {1500, 10}) {
    GenerateRequest request = Ask(id_, Words(prompt), 400);
    // With its speed known the engine would not even begin with the long one.
    engine_->metrics().prefill_tokens_per_second.store(0);
    const auto deadline = Clock::now() + std::chrono::seconds(2);
    request.deadline = deadline;
    const std::atomic<uint64_t>& generated = engine_->metrics().generation_tokens;
    std::atomic<int> late_steps = 0;
    gated_.hook->Set([&, prompt, deadline, before = generated.load()] {
      if (prompt == 1500 || generated.load() > before) std::this_thread::sleep_until(deadline);
      if (Clock::now() >= deadline) ++late_steps;
      return absl::OkStatus();
    });
    auto [sink, result] = Complete(engine_, request);
    gated_.GoByTheGate();
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(sink->tokens().empty(), prompt == 1500);
    EXPECT_EQ(late_steps.load(), 1) << "it ends with the step that was running";
    ASSERT_TRUE(engine_->RewindSession(id_, 0).ok());
  }
  ExpectUsable(engine_, id_, "");
}

TEST_F(EngineCancelTest, DeletingASessionCancelsItsRequest) {
  Call call = Start(engine_, Ask(id_, Words(320), 5));
  gated_.gate->AwaitArrival(1);
  std::thread deleter([&] { EXPECT_TRUE(engine_->DeleteSession(id_).ok()); });
  gated_.gate->Open();
  deleter.join();
  const absl::Status status = call.sink->Wait().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Reason(status), reason::kSessionDeleted);
  EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 0);
  EXPECT_EQ(engine_->metrics().session_tokens.load(), 0);
}

TEST_F(EngineCancelTest, ASlowReaderPausesOnlyItself) {
  gated_.gate->Open();
  Call slow;
  slow.sink->PauseAfter(3);
  GenerateRequest request = Ask(id_, "abc", 20);
  request.cancel = slow.cancel;
  request.sink = slow.sink;
  engine_->Generate(std::move(request));
  slow.sink->WaitForTokens(3);
  EXPECT_THAT(Tokens(engine_, Ask("", Words(50), 50)), SizeIs(50));
  EXPECT_THAT(slow.sink->tokens(), SizeIs(3));
  EXPECT_FALSE(slow.sink->done());
  slow.sink->Resume();
  ASSERT_TRUE(slow.sink->Wait().ok());
  EXPECT_EQ(slow.sink->tokens(), Tokens(engine_, Ask("", "abc", 20)));
}

TEST_F(EngineCancelTest, APausedReaderCanBeCancelled) {
  gated_.gate->Open();
  Call slow;
  slow.sink->PauseAfter(2);
  GenerateRequest request = Ask(id_, "abc", 20);
  request.cancel = slow.cancel;
  request.sink = slow.sink;
  engine_->Generate(std::move(request));
  slow.sink->WaitForTokens(2);
  slow.cancel->Cancel();
  EXPECT_EQ(slow.sink->Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(engine_->GetSession(id_)->tokens, 5);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return t.tv_sec + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST_F(EngineCancelTest, AnIdleEngineSleeps) {
  gated_.gate->Open();
  ASSERT_TRUE(Complete(engine_, Ask(id_, "abc", 2)).second.ok());
  const double before = CpuSeconds();
  const uint64_t steps = engine_->metrics().engine_steps.load();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LT(CpuSeconds() - before, 0.02);
  EXPECT_EQ(engine_->metrics().engine_steps.load(), steps);
}

TEST_F(EngineCancelTest, AFailedStepEndsItsRequestsAndNothingElse) {
  Fill("kept");
  gated_.gate->Open();
  const auto fail = [] { return absl::InternalError("a kernel was not launched"); };
  gated_.hook->Set(fail);
  const absl::Status status = Complete(engine_, Ask(id_, Words(40), 5)).second.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Reason(status), reason::kEngineFault);
  EXPECT_EQ(AppendText(engine_, id_, Words(40)).status().code(), absl::StatusCode::kInternal);
  // And in decode: the first token fails.
  EXPECT_EQ(Complete(engine_, Ask(id_, "", 5)).second.status().code(), absl::StatusCode::kInternal);
  EXPECT_GE(engine_->metrics().engine_failed_steps.load(), 3) << "what the watchdog looks at";
  gated_.hook->Set(nullptr);
  ExpectUsable(engine_, id_, "kept");
  EXPECT_EQ(engine_->metrics().engine_failed_steps.load(), 0);
}

// The biases of a step need device memory when they are the first, or more than ever.
TEST(EngineFullDeviceTest, AStepWithoutMemoryEndsItsRequestsAndNothingElse) {
  const auto allocation = std::make_shared<StepHook>();
  TinyEngineOptions options;
  options.backend = std::make_unique<HookedBackend>(testing::TinyBackend()(),
                                                    std::make_shared<StepHook>(), allocation);
  const auto engine = MakeTinyEngine(std::move(options));
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, "kept").ok());
  GenerateRequest biased = Ask(id, "", 5);
  biased.sampling.logit_bias = {{'a', 100.0f}};
  allocation->Set([] { return absl::ResourceExhaustedError("the device is full"); });
  const absl::Status status = Complete(engine.get(), biased).second.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_EQ(Reason(status), reason::kEngineFault);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the device is full"));
  EXPECT_TRUE(Complete(engine.get(), Ask("", "abc", 5)).second.ok()) << "needs no more memory";
  allocation->Set(nullptr);
  ExpectUsable(engine.get(), id, "kept");
  EXPECT_EQ(Tokens(engine.get(), biased), std::vector<int32_t>(5, 'a'));
}

// Nothing may wait for a device that will not answer: not what runs, not what waits, not what
// comes.
TEST_F(EngineCancelTest, ALostDeviceEndsEveryRequest) {
  Fill("kept");
  Call prefilling = Start(engine_, Ask("", Words(200), 5));
  Call other = Start(engine_, Ask("", Words(200, 2), 5));
  Appending appending = StartAppend(engine_, id_, {TextInput{Words(200)}});
  gated_.hook->Set([] { return absl::UnavailableError("the device is gone"); });
  gated_.gate->Open();
  for (const absl::Status& status :
       {prefilling.sink->Wait().status(), other.sink->Wait().status(), appending.Wait().status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(Reason(status), reason::kDeviceLost);
  }
  EXPECT_TRUE(engine_->metrics().device_lost.load());
  gated_.hook->Set(nullptr);
  EXPECT_EQ(Reason(Complete(engine_, Ask(id_, "", 5)).second.status()), reason::kDeviceLost);
  EXPECT_EQ(Reason(AppendText(engine_, id_, "x").status()), reason::kDeviceLost);
  EXPECT_TRUE(engine_->GetSession(id_).ok()) << "what needs no device still answers";
  EXPECT_TRUE(BecomesIdle(*engine_));
}

TEST(EngineEndTest, DestructionEndsEveryRequest) {
  std::vector<Call> calls;
  std::vector<Appending> appends;
  {
    TinyEngineOptions options;
    options.engine.max_running = 2;
    GatedEngine gated(std::move(options));
    Engine* engine = gated.engine.get();
    // So slow that none can end by itself before.
    gated.hook->Set([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return absl::OkStatus();
    });
    for (int i = 0; i < 6; ++i) {
      calls.push_back(Start(engine, Ask(NewSession(engine), Words(100), 1500)));
      appends.push_back(StartAppend(engine, NewSession(engine), {TextInput{Words(1500)}}));
    }
    EXPECT_TRUE(Eventually([&] { return engine->metrics().requests_running.load() == 2; }));
  }
  for (Call& call : calls) {
    EXPECT_EQ(call.sink->Wait().status().code(), absl::StatusCode::kCancelled);
  }
  for (Appending& append : appends) {
    EXPECT_EQ(append.Wait().status().code(), absl::StatusCode::kCancelled);
  }
}

// A sink may hold a lock that the thread which submits also holds: no callback comes from within
// Generate.
TEST(EngineEndTest, CallbacksNeverComeFromTheSubmittingThread) {
  class LockingSink : public RecordingSink {
   public:
    explicit LockingSink(std::mutex* mutex) : mutex_(mutex) {}
    void OnDone(absl::StatusOr<GenerateResult> result) override {
      const std::lock_guard lock(*mutex_);
      RecordingSink::OnDone(std::move(result));
    }
    std::mutex* mutex_;
  };
  auto engine = MakeTinyEngine();
  std::mutex mutex;
  const auto sink = std::make_shared<LockingSink>(&mutex);
  {
    const std::lock_guard lock(mutex);
    GenerateRequest request = Ask("nobody", "x", 1);
    request.cancel = std::make_shared<CancelToken>();
    request.sink = sink;
    engine->Generate(std::move(request));
  }
  EXPECT_EQ(sink->Wait().status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace spotd::engine
