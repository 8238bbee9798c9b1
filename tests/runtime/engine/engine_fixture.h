// What the engine's tests share: a sink that records, and calls that wait for their outcome.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/ref/ref_backend.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "tests/runtime/hooked_backend.h"
#include "tests/runtime/tiny_model.h"

namespace spotd::engine {

using testing::HookedBackend;
using testing::MakeTinyEngine;
using testing::StepHook;
using testing::TinyEngineOptions;

// Long enough for a slow machine under a sanitizer; a test that waits so long has failed.
inline constexpr std::chrono::seconds kPatience{60};

class RecordingSink : public TokenSink {
  template <typename Read>
  auto Locked(const Read& read) {
    const std::lock_guard lock(mutex_);
    return read();
  }

 public:
  void OnPrefill(int32_t done, int32_t total) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(outcome_) << "called after OnDone";
    progress_.emplace_back(done, total);
    changed_.notify_all();
  }
  void OnToken(const TokenEvent& event) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(outcome_) << "called after OnDone";
    // Other candidates get what the step that is running draws.
    EXPECT_TRUE(ready_ || event.candidate > 0) << "a token for a reader that is behind";
    tokens_.push_back(event.token);
    logprobs_.push_back(event.logprob);
    by_candidate_[event.candidate].push_back(event.token);
    events_.push_back(event);
    text_ += event.text;
    if (pause_after_ > 0 && static_cast<int>(tokens_.size()) >= pause_after_) ready_ = false;
    changed_.notify_all();
  }
  bool Ready() override {
    const std::lock_guard lock(mutex_);
    return ready_;
  }
  void OnDone(absl::StatusOr<GenerateResult> result) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(outcome_) << "OnDone twice";
    outcome_ = std::move(result);
    changed_.notify_all();
  }

  absl::StatusOr<GenerateResult> Wait() {
    WaitUntil([this] { return outcome_.has_value(); });
    const std::lock_guard lock(mutex_);
    if (!outcome_) return absl::InternalError("the request never ended");
    if (outcome_->ok()) {
      const Usage& usage = (*outcome_)->usage;
      EXPECT_EQ(usage.prompt_tokens, usage.computed_tokens + usage.session_tokens +
                                         usage.prefix_tokens + usage.restored_tokens);
      EXPECT_GE(usage.restored_tokens, 0);
      EXPECT_GE(usage.computed_tokens, 1);
      EXPECT_GE(usage.session_tokens, 0);
      EXPECT_GE(usage.prefix_tokens, 0);
      EXPECT_EQ(usage.generated_tokens, static_cast<int32_t>(tokens_.size()));
    }
    return *outcome_;
  }
  void WaitForTokens(size_t count) {
    WaitUntil([this, count] { return tokens_.size() >= count; });
  }
  void WaitForProgress(int32_t done) {
    WaitUntil([this, done] { return !progress_.empty() && progress_.back().first >= done; });
  }
  // The reader falls behind once it has `tokens` tokens; 0: at once.
  void PauseAfter(int tokens) {
    const std::lock_guard lock(mutex_);
    pause_after_ = tokens;
    if (tokens == 0) ready_ = false;
  }
  void Resume() {
    const std::lock_guard lock(mutex_);
    pause_after_ = 0;
    ready_ = true;
  }

  bool done() {
    return Locked([this] { return outcome_.has_value(); });
  }
  std::vector<int32_t> tokens() {
    return Locked([this] { return tokens_; });
  }
  std::vector<float> logprobs() {
    return Locked([this] { return logprobs_; });
  }
  std::string text() {
    return Locked([this] { return text_; });
  }
  std::map<int32_t, std::vector<int32_t>> by_candidate() {
    return Locked([this] { return by_candidate_; });
  }
  std::vector<TokenEvent> events() {
    return Locked([this] { return events_; });
  }
  std::vector<std::pair<int32_t, int32_t>> progress() {
    return Locked([this] { return progress_; });
  }

 private:
  void WaitUntil(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    // An early end answers every wait; the test then sees what is missing.
    changed_.wait_for(lock, kPatience, [&] { return condition() || outcome_.has_value(); });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = true;
  int pause_after_ = 0;
  std::vector<std::pair<int32_t, int32_t>> progress_;
  std::vector<int32_t> tokens_;
  std::vector<float> logprobs_;
  std::map<int32_t, std::vector<int32_t>> by_candidate_;
  std::vector<TokenEvent> events_;
  std::string text_;
  std::optional<absl::StatusOr<GenerateResult>> outcome_;
};

// A Generate on its way.
struct Call {
  std::shared_ptr<RecordingSink> sink = std::make_shared<RecordingSink>();
  std::shared_ptr<CancelToken> cancel = std::make_shared<CancelToken>();
};

inline GenerateRequest Ask(std::string session, std::string prompt, int32_t max_tokens) {
  GenerateRequest request;
  request.session_id = std::move(session);
  if (!prompt.empty())
    request.prompt.emplace_back(std::in_place_type<TextInput>, std::move(prompt), false);
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

// Its reader stops after `pause_after` tokens; negative: never.
inline Call Start(Engine* engine, GenerateRequest request, int pause_after = -1) {
  Call call;
  if (pause_after >= 0) call.sink->PauseAfter(pause_after);
  request.cancel = call.cancel;
  request.sink = call.sink;
  engine->Generate(std::move(request));
  return call;
}

// Starts the call with a sink that never has to wait for its reader, and waits for its end.
inline std::pair<std::shared_ptr<RecordingSink>, absl::StatusOr<GenerateResult>> Complete(
    Engine* engine, GenerateRequest request) {
  Call call = Start(engine, std::move(request));
  auto result = call.sink->Wait();
  return {call.sink, std::move(result)};
}

inline std::vector<int32_t> Tokens(Engine* engine, GenerateRequest request) {
  auto [sink, result] = Complete(engine, std::move(request));
  EXPECT_TRUE(result.ok()) << result.status();
  return sink->tokens();
}

// An Append on its way.
struct Appending {
  std::shared_ptr<CancelToken> cancel = std::make_shared<CancelToken>();
  std::shared_ptr<std::promise<absl::StatusOr<AppendResult>>> promise =
      std::make_shared<std::promise<absl::StatusOr<AppendResult>>>();
  absl::StatusOr<AppendResult> Wait() {
    auto future = promise->get_future();
    if (future.wait_for(kPatience) != std::future_status::ready) {
      return absl::InternalError("the request never ended");
    }
    absl::StatusOr<AppendResult> result = future.get();
    if (result.ok()) {
      const Usage& usage = result->usage;
      EXPECT_EQ(usage.prompt_tokens, usage.computed_tokens + usage.session_tokens +
                                         usage.prefix_tokens + usage.restored_tokens);
      EXPECT_EQ(usage.prompt_tokens, result->session_tokens_after);
    }
    return result;
  }
};

inline Appending StartAppend(Engine* engine, std::string session, std::vector<Input> input,
                             std::function<void(int32_t, int32_t)> on_progress = nullptr,
                             int32_t priority = 0) {
  Appending appending;
  AppendRequest request;
  request.priority = priority;
  request.session_id = std::move(session);
  request.input = std::move(input);
  request.cancel = appending.cancel;
  request.on_progress = std::move(on_progress);
  request.on_done = [promise = appending.promise](absl::StatusOr<AppendResult> result) {
    promise->set_value(std::move(result));
  };
  engine->Append(std::move(request));
  return appending;
}

inline absl::StatusOr<AppendResult> AppendText(Engine* engine, std::string session,
                                               std::string text) {
  return StartAppend(engine, std::move(session), {TextInput{std::move(text)}}).Wait();
}

inline std::string NewSession(Engine* engine) {
  const auto info = engine->CreateSession({});
  EXPECT_TRUE(info.ok()) << info.status();
  return info->id;
}

// Idle is told after the last outcome.
inline bool BecomesIdle(const Engine& engine) {
  for (int i = 0; i < 5000 && !engine.Idle(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return engine.Idle();
}

// Waits until `condition` holds; false when it never does.
template <typename F>
bool Eventually(F condition) {
  const auto deadline = Clock::now() + kPatience;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::string Reason(const absl::Status& status) {
  return GetErrorDetails(status).reason;
}

// Repeatable text: `count` bytes that look like words.
inline std::string Words(int count, uint32_t seed = 1) {
  std::string text;
  while (static_cast<int>(text.size()) < count) {
    seed = seed * 1664525 + 1013904223;
    text += (seed >> 24) % 6 == 0 ? ' ' : static_cast<char>('a' + (seed >> 16) % 26);
  }
  return text;
}

// Holds the engine at the end of a step until told to go on, so that a test knows what state it
// meets.
class Gate {
 public:
  // Engine thread.
  absl::Status Pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [this] { return open_ || passes_ > 0; });
    if (!open_ && passes_ > 0) --passes_;
    return absl::OkStatus();
  }
  // Waits until the engine has come to the gate `times` times in all.
  void AwaitArrival(int times) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return arrived_ >= times; }));
  }
  void LetPass(int times) {
    const std::lock_guard lock(mutex_);
    passes_ += times;
    changed_.notify_all();
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int passes_ = 0;
  bool open_ = false;
};

// An engine whose steps wait at a gate.
struct GatedEngine {
  explicit GatedEngine(TinyEngineOptions options = TinyEngineOptions()) {
    options.backend = std::make_unique<HookedBackend>(kernels::CreateRefBackend(), hook);
    engine = MakeTinyEngine(std::move(options));
    StopAtGate();
  }
  ~GatedEngine() { gate->Open(); }

  // For the steps that begin from now on.
  void StopAtGate() {
    hook->Set([gate = gate] { return gate->Pass(); });
  }
  void GoByTheGate() { hook->Set(nullptr); }

  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  std::shared_ptr<StepHook> hook = std::make_shared<StepHook>();
  std::unique_ptr<Engine> engine;
};

}  // namespace spotd::engine
