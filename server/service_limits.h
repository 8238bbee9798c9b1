// What an operator can set of sharing the server: limits for all, for each tenant, and for what
// clients may choose.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "server/option_table.h"

namespace spotd::server {

struct ServiceLimits {
  int32_t max_waiting_tokens = 0;  // 0 = no bound, here and below
  int32_t max_uploads = 64;
  std::chrono::milliseconds upload_timeout{60'000};  // 0 = none
  std::chrono::milliseconds session_ttl{0};
  std::chrono::milliseconds max_session_ttl{0};
  int32_t tenant_max_sessions = 0;
  int32_t tenant_max_tokens = 0;
  int32_t tenant_max_requests = 0;
  int32_t tenant_upload_percent = 50;
  int32_t tenant_kv_percent = 100;
  bool prefix_sharing = true;
  int32_t prefix_cache_percent = 50;
  ByteSize trace_memory{64u << 20};
  std::string allowed_policies = "all";  // or names, separated by commas
  int32_t policy_min_tokens = 0;
  int32_t policy_max_tokens = 0;
  int32_t audit_every_steps = 100;
  int32_t audit_floor_percent = 0;
};

void AddServiceLimits(ServiceLimits* limits, OptionTable* table);

}  // namespace spotd::server
