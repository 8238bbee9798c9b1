#include "server/rpc_metrics.h"

namespace spotd::server {

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
