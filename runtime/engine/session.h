// A session as the engine holds it. Who may touch what is fixed per member.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvstore/block_table.h"
#include "runtime/engine/conversation.h"
#include "runtime/engine/request_log.h"
#include "runtime/engine/tenant.h"
#include "runtime/model/policy.h"

namespace spotd::engine {

// What audits found of a session's sparse steps.
struct SessionAudit {
  int32_t audits = 0;
  double recalled_mass = 1;  // mean, the latest weighing most
  bool dense = false;        // it fell under the floor: every step reads everything from here on
};

struct Session {
  // Fixed at creation: any thread.
  std::string id;  // empty: of a one-shot request, known to nobody else
  std::string tenant = kDefaultTenant;
  std::string display_name;
  model::Policy policy;
  int64_t create_time_ms = 0;  // Unix time

  // Content. Of the request that has claimed the session, on whichever thread it is; of the
  // registry, under its mutex, while nobody has.
  std::vector<int32_t> tokens;
  Conversation conversation;
  RequestLog requests;  // answers to repeat, of requests that carried an id

  // Engine thread only.
  kvstore::BlockTable
      table;  // KV of the first table.num_tokens() tokens: at most all but the newest
  SessionAudit audit;
  bool deleted = false;
  uint64_t last_used = 0;  // larger is later
};

}  // namespace spotd::engine
