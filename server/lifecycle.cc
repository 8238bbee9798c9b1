#include "server/lifecycle.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>

#include "server/log.h"

namespace spotd::server {
namespace {

constexpr std::chrono::milliseconds kTick{500};
constexpr std::chrono::milliseconds kDrainTick{20};
// What a finished call may take to reach its client.
constexpr std::chrono::milliseconds kFlushTime{500};

sigset_t ShutdownSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

}  // namespace

void BlockShutdownSignals() {
  const sigset_t signals = ShutdownSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

std::optional<int> WaitForSignal(std::chrono::milliseconds timeout) {
  const sigset_t signals = ShutdownSignals();
  const timespec wait{timeout.count() / 1000, timeout.count() % 1000 * 1'000'000};
  const int signal = sigtimedwait(&signals, nullptr, &wait);
  return signal > 0 ? std::optional(signal) : std::nullopt;
}

Lifecycle::Lifecycle(const Options& options, engine::Engine* engine, RpcMetrics* rpc_metrics,
                     RunningCalls* calls, GrpcServer* grpc_server)
    : options_(options),
      engine_(engine),
      rpc_metrics_(rpc_metrics),
      calls_(calls),
      grpc_server_(grpc_server),
      watchdog_(options.stall_timeout, std::chrono::steady_clock::now()) {}

void Lifecycle::Run() {
  for (;;) {
    if (const std::optional<int> signal = WaitForSignal(kTick); signal.has_value()) {
      Log(LogLevel::kInfo, "draining", {{"signal", strsignal(*signal)}});
      Drain();
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    Watch(now);
    if (options_.upload_timeout.count() > 0)
      calls_->EndStalledUploads(now - options_.upload_timeout);
  }
}

void Lifecycle::Watch(std::chrono::steady_clock::time_point now) {
  const engine::Metrics& metrics = engine_->metrics();
  Heartbeat heartbeat;
  heartbeat.beats = metrics.engine_beats.load();
  heartbeat.pending = metrics.requests_running.load() > 0 || metrics.requests_waiting.load() > 0;
  heartbeat.computing_since = std::chrono::steady_clock::time_point(
      std::chrono::steady_clock::duration(metrics.engine_computing_since.load()));
  heartbeat.computing_tokens = metrics.engine_computing_tokens.load();
  heartbeat.failed_steps = metrics.engine_failed_steps.load();
  heartbeat.device_lost = metrics.device_lost.load();
  heartbeat.tokens_per_second = metrics.prefill_tokens_per_second.load();
  SetState(watchdog_.Look(heartbeat, now) == Watchdog::Verdict::kHung ? EngineState::kStalled
                                                                      : EngineState::kReady);
}

void Lifecycle::SetState(EngineState state) {
  if (state_.load() == state) return;
  if (state == EngineState::kStalled)
    Log(LogLevel::kError, "the engine makes no progress, or its device fails");
  grpc_server_->SetServing(/*live=*/state != EngineState::kStalled,
                           /*ready=*/state == EngineState::kReady);
  // Last: whoever sees the state may rely on health saying the same.
  state_.store(state);
}

bool Lifecycle::AwaitCalls(std::chrono::milliseconds timeout) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!engine_->Idle() || rpc_metrics_->awaited() > 0) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    if (WaitForSignal(kDrainTick).has_value()) {
      Log(LogLevel::kWarning, "second signal: exiting at once");
      std::_Exit(1);
    }
  }
  return true;
}

void Lifecycle::Drain() {
  SetState(EngineState::kDraining);
  engine_->StartDrain();
  rpc_metrics_->StartDrain();
  calls_->DrainUploads();
  if (!AwaitCalls(options_.drain_timeout)) {
    Log(LogLevel::kWarning, "drain timeout: ending what still runs");
    calls_->DrainAll();
    AwaitCalls(kFlushTime);
  }
  std::this_thread::sleep_for(kFlushTime);
  Log(LogLevel::kInfo, "drained");
}

}  // namespace spotd::server
