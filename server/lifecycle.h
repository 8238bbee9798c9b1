// The life of a running server: a watchdog that tells a hung engine from a busy one, and the
// graceful end.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "runtime/engine/engine.h"
#include "server/grpc_server.h"
#include "server/metrics_exporter.h"
#include "server/rpc_metrics.h"
#include "server/running_calls.h"
#include "server/watchdog.h"

namespace spotd::server {

// Blocks SIGTERM and SIGINT for this thread and those it starts, so that only WaitForSignal sees
// them.
void BlockShutdownSignals();
// The signal that arrived, or nothing after `timeout`.
std::optional<int> WaitForSignal(std::chrono::milliseconds timeout);

class Lifecycle {
 public:
  struct Options {
    std::chrono::milliseconds drain_timeout{30'000};
    std::chrono::milliseconds stall_timeout{120'000};
    std::chrono::milliseconds upload_timeout{0};  // 0 = uploads may pause for ever
  };

  // All must outlive this.
  Lifecycle(const Options& options, engine::Engine* engine, RpcMetrics* rpc_metrics,
            RunningCalls* calls, GrpcServer* grpc_server);

  // Serves, and ends uploads that send nothing for the upload timeout, until SIGTERM or SIGINT,
  // then drains: health says NOT_SERVING, new work is refused, calls that still send their input
  // among it, and what runs may end within the drain timeout and gets UNAVAILABLE after it. A
  // second signal ends the process at once. The port still refuses politely when this returns.
  void Run();

  // Any thread.
  EngineState state() const { return state_.load(); }

 private:
  void Watch(std::chrono::steady_clock::time_point now);
  void SetState(EngineState state);
  void Drain();
  // Until every call that came before the drain has its end; false when that took too long.
  bool AwaitCalls(std::chrono::milliseconds timeout) const;

  const Options options_;
  engine::Engine* engine_;
  RpcMetrics* rpc_metrics_;
  RunningCalls* calls_;
  GrpcServer* grpc_server_;
  std::atomic<EngineState> state_{EngineState::kReady};
  Watchdog watchdog_;
};

}  // namespace spotd::server
