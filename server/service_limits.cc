#include "server/service_limits.h"

namespace spotd::server {

void AddServiceLimits(ServiceLimits* limits, OptionTable* table) {
  table->Group("Sharing the server");
  table->Add("max_waiting_tokens", "Prompt tokens of queued requests; 0 = no bound.",
             &limits->max_waiting_tokens, 0, 1 << 30);
  table->Add("max_uploads", "Append calls that send their input at a time; 0 = no bound.",
             &limits->max_uploads, 0, 1 << 20);
  table->Add("upload_timeout",
             "An Append that sends nothing for so long before its end is ended; 0s = never.",
             &limits->upload_timeout);
  table->Add("session_ttl", "Sessions end when unused for so long; 0s = never.",
             &limits->session_ttl);
  table->Add("max_session_ttl", "The longest such time a client may ask for; 0s = any.",
             &limits->max_session_ttl);
  table->Add("tenant_max_sessions", "Sessions that a tenant may hold; 0 = no bound.",
             &limits->tenant_max_sessions, 0, 1 << 20);
  table->Add(
      "tenant_max_tokens",
      "Tokens that a tenant's sessions may hold, with what its running requests add to them; "
      "0 = no bound.",
      &limits->tenant_max_tokens, 0, 1 << 30);
  table->Add("tenant_max_requests",
             "Requests that a tenant may have running and queued; 0 = no bound.",
             &limits->tenant_max_requests, 0, 1 << 20);
  table->Add(
      "tenant_upload_percent",
      "Share of `max_uploads` that a tenant may have going on, at least one, where callers are "
      "told apart.",
      &limits->tenant_upload_percent, 1, 100);
  table->Add("tenant_kv_percent", "Share of the KV cache that a tenant may hold.",
             &limits->tenant_kv_percent, 1, 100);
  table->Add("prefix_sharing", "A tenant's sessions that begin alike share the beginning's KV.",
             &limits->prefix_sharing);
  table->Add("prefix_cache_percent",
             "Share of the KV cache that may keep beginnings after their last session; given up "
             "before anything else; 0 = none.",
             &limits->prefix_cache_percent, 0, 100);
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

}  // namespace spotd::server
