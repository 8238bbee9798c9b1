// Tenants: whose a session or a request is, and how much one of them may hold.
#pragma once

#include <cstdint>

namespace spotd::engine {

// Of callers that do not say who they are.
inline constexpr char kDefaultTenant[] = "default";

// What each tenant may hold. 0 = no limit of its own.
struct TenantLimits {
  int32_t max_sessions = 0;
  // Tokens of all its sessions together, with what running and waiting requests have added so far.
  int64_t max_session_tokens = 0;
  int32_t max_requests = 0;  // running and waiting
  double max_kv_share = 1;   // of the KV blocks, in (0, 1]
};

}  // namespace spotd::engine
