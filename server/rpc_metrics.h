// What the server itself counts: calls by method and outcome, refusals by reason, and how many
// calls are in progress.
//
// Thread-safe. Label values come from closed sets: methods of spotd.v1, status codes, finish
// reasons, error reasons.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace spotd::server {

class RpcMetrics {
 public:
  struct Outcome {
    std::string method;         // "Generate"
    std::string code;           // "OK", "NOT_FOUND"
    std::string finish_reason;  // "stop_token"; empty where nothing was generated
    std::string reason;         // of the error: "TENANT_REQUEST_LIMIT"; empty for OK
    auto operator<=>(const Outcome&) const = default;
  };

  // Series of successful calls and of refusals are there from the start, at zero: a rate over a
  // series that appears with its first event would miss that event.
  RpcMetrics();

  // Whether the call is among those that a drain waits for: it came before StartDrain.
  bool CallStarted();
  void CallEnded(bool awaited);
  int64_t in_progress() const { return in_progress_.load(); }
  void StartDrain() { draining_.store(true); }
  int64_t awaited() const { return awaited_.load(); }

  void Count(const Outcome& outcome);
  void CountRejected(const std::string& reason);

  std::map<Outcome, uint64_t> outcomes() const;
  std::map<std::string, uint64_t> rejected() const;

 private:
  std::atomic<int64_t> in_progress_{0};
  std::atomic<int64_t> awaited_{0};
  std::atomic<bool> draining_{false};
  mutable std::mutex mutex_;
  std::map<Outcome, uint64_t> outcomes_;      // guarded by mutex_
  std::map<std::string, uint64_t> rejected_;  // guarded by mutex_
};

}  // namespace spotd::server
