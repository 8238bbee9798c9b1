#include "server/rpc_metrics.h"

#include "runtime/engine/error_catalogue.h"

namespace spotd::server {

RpcMetrics::RpcMetrics() {
  for (const char* method : {"CreateSession", "GetSession", "ListSessions", "DeleteSession",
                             "ForkSession", "RewindSession", "UpdateSession", "Append", "Abort",
                             "Trace", "ListModels", "GetModel", "Tokenize", "Detokenize"}) {
    outcomes_[{method, "OK", "", ""}] = 0;
  }
  for (const char* method : {"Generate", "Complete"}) {
    for (const char* finish : {"stop_token", "stop_text", "max_tokens", "context_full"}) {
      outcomes_[{method, "OK", finish, ""}] = 0;
    }
  }
  for (const engine::ReasonInfo& info : engine::ErrorCatalogue()) {
    const bool refusal = info.code == absl::StatusCode::kResourceExhausted ||
                         info.code == absl::StatusCode::kUnavailable;
    if (refusal) rejected_[info.reason] = 0;
  }
}

bool RpcMetrics::CallStarted() {
  in_progress_.fetch_add(1);
  awaited_.fetch_add(1);
  if (!draining_.load()) return true;
  awaited_.fetch_sub(1);
  return false;
}

void RpcMetrics::CallEnded(bool awaited) {
  in_progress_.fetch_sub(1);
  if (awaited) awaited_.fetch_sub(1);
}

void RpcMetrics::Count(const Outcome& outcome) {
  std::lock_guard lock(mutex_);
  ++outcomes_[outcome];
}

void RpcMetrics::CountRejected(const std::string& reason) {
  std::lock_guard lock(mutex_);
  ++rejected_[reason];
}

std::map<RpcMetrics::Outcome, uint64_t> RpcMetrics::outcomes() const {
  std::lock_guard lock(mutex_);
  return outcomes_;
}

std::map<std::string, uint64_t> RpcMetrics::rejected() const {
  std::lock_guard lock(mutex_);
  return rejected_;
}

}  // namespace spotd::server
