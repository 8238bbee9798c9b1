#include "server/service_limits.h"

#include <algorithm>
#include <string_view>

#include "kernels/core/status.h"

namespace spotd::server {

void AddServiceLimits(ServiceLimits* limits, OptionTable* table) {
  table->Group("Sharing the server");
  table->Add("max_waiting_tokens", "Prompt tokens of queued requests; 0 = no bound.",
             &limits->max_waiting_tokens, 0, 1 << 30);
  table->Add("max_uploads", "Append calls that send their input at a time; 0 = no bound.",
             &limits->max_uploads, 0, 1 << 20);
  table->Add("session_ttl", "Sessions end when unused for so long; 0s = never.",
             &limits->session_ttl);
  table->Add("max_session_ttl", "The longest such time a client may ask for; 0s = any.",
             &limits->max_session_ttl);
  table->Add("tenant_max_sessions", "Sessions that a tenant may hold; 0 = no bound.",
             &limits->tenant_max_sessions, 0, 1 << 20);
  table->Add("tenant_max_tokens", "Tokens that a tenant's sessions may hold; 0 = no bound.",
             &limits->tenant_max_tokens, 0, 1 << 30);
  table->Add("tenant_max_requests",
             "Requests that a tenant may have running and queued; 0 = no bound.",
             &limits->tenant_max_requests, 0, 1 << 20);
  table->Add("tenant_kv_percent", "Share of the KV cache that a tenant may hold.",
             &limits->tenant_kv_percent, 1, 100);
  table->Add("prefix_sharing", "A tenant's sessions that begin alike share the beginning's KV.",
             &limits->prefix_sharing);
  table->Add("trace_memory", "Memory for recorded traces, all together.", &limits->trace_memory);
  table->Add("allowed_policies", "Policies that clients may choose, comma-separated, or all.",
             &limits->allowed_policies);
  table->Add("policy_min_tokens", "The smallest k_min_tokens that clients may choose.",
             &limits->policy_min_tokens, 0, 1 << 30);
  table->Add("policy_max_tokens", "The largest k_max_tokens that clients may choose; 0 = any.",
             &limits->policy_max_tokens, 0, 1 << 30);
  table->Add("audit_every_steps",
             "Every so many decode steps one layer is also computed densely; 0 = never.",
             &limits->audit_every_steps, 0, 1 << 30);
  table->Add("audit_floor_percent",
             "A session whose recalled attention mass falls under this decodes densely; 0 = none.",
             &limits->audit_floor_percent, 0, 100);
}

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
