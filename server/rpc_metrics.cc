#include "server/rpc_metrics.h"

#include "runtime/engine/error_reasons.h"
#include "server/status_map.h"

namespace spotd::server {

RpcMetrics::RpcMetrics() {
  for (const char* method :
       {"CreateSession", "GetSession", "ListSessions", "DeleteSession", "ForkSession",
        "RewindSession", "Append", "ListModels", "GetModel", "Tokenize", "Detokenize"}) {
    outcomes_[{method, "OK", ""}] = 0;
  }
  for (const char* method : {"Generate", "Complete"}) {
    for (const char* finish : {"stop_token", "stop_text", "max_tokens", "context_full"}) {
      outcomes_[{method, "OK", finish}] = 0;
    }
  }
  namespace reason = engine::reason;
  for (const char* why : {reason::kQueueFull, reason::kKvExhausted, reason::kSessionLimit,
                          reason::kDraining, kServerBusy}) {
    rejected_[why] = 0;
  }
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
