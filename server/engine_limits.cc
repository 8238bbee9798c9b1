#include "server/engine_limits.h"

#include <algorithm>
#include <string_view>

#include "kernels/core/status.h"

namespace spotd::server {

namespace {

absl::Status ParsePolicies(std::string_view names, engine::PolicyBounds* bounds) {
  if (names == "all") return absl::OkStatus();
  while (!names.empty()) {
    const size_t comma = std::min(names.find(','), names.size());
    const auto kind = model::ParsePolicy(names.substr(0, comma));
    if (!kind.ok()) return InvalidArgument("--allowed_policies: ", kind.status().message());
    bounds->allowed.push_back(*kind);
    names.remove_prefix(std::min(comma + 1, names.size()));
  }
  if (bounds->allowed.empty()) return InvalidArgument("--allowed_policies names none");
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyServiceLimits(const ServiceLimits& limits, engine::EngineOptions* options) {
  options->max_waiting_tokens = limits.max_waiting_tokens;
  options->prefix_sharing = limits.prefix_sharing;
  options->prefix_cache_share = limits.prefix_cache_percent / 100.0;
  options->audit.every_steps = limits.audit_every_steps;
  options->audit.floor = limits.audit_floor_percent / 100.0;
  options->max_record_bytes = limits.trace_memory.bytes;
  engine::SessionLimits& sessions = options->sessions;
  sessions.default_ttl = limits.session_ttl;
  sessions.max_ttl = limits.max_session_ttl;
  sessions.tenant.max_sessions = limits.tenant_max_sessions;
  sessions.tenant.max_session_tokens = limits.tenant_max_tokens;
  sessions.tenant.max_requests = limits.tenant_max_requests;
  sessions.tenant.max_kv_share = limits.tenant_kv_percent / 100.0;
  options->policy_bounds.min_tokens = limits.policy_min_tokens;
  options->policy_bounds.max_tokens = limits.policy_max_tokens;
  return ParsePolicies(limits.allowed_policies, &options->policy_bounds);
}

}  // namespace spotd::server
