// How much of the engine each tenant has had, so that whoever has had least goes first.
//
// A tenant that comes back after a pause starts level with the least served of those at work:
// doing nothing earns no credit. Kept only for tenants with requests in the engine. Engine thread
// only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>

namespace spotd::engine {

class FairShare {
 public:
  // A request of the tenant has come, or has left.
  void Enter(const std::string& tenant) {
    Share& share = shares_[tenant];
    if (share.requests++ == 0) share.served = Least(tenant);
  }
  void Leave(const std::string& tenant) {
    const auto it = shares_.find(tenant);
    if (--it->second.requests == 0) shares_.erase(it);
  }
  // A sequence of the tenant begins to run, or stops.
  void Begin(const std::string& tenant) { ++shares_[tenant].running; }
  void Stop(const std::string& tenant) { --shares_[tenant].running; }
  // Tokens have been computed for the tenant.
  void Charge(const std::string& tenant, int64_t tokens) { shares_[tenant].served += tokens; }

  int64_t served(const std::string& tenant) const { return shares_.at(tenant).served; }
  int32_t running(const std::string& tenant) const { return shares_.at(tenant).running; }

 private:
  struct Share {
    int64_t served = 0;
    int32_t requests = 0;
    int32_t running = 0;
  };

  int64_t Least(const std::string& but) const {
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const auto& [tenant, share] : shares_) {
      if (tenant != but) least = std::min(least, share.served);
    }
    return shares_.size() > 1 ? least : 0;
  }

  std::map<std::string, Share> shares_;
};

}  // namespace spotd::engine
