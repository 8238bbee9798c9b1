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

  // Content. Of the request that has claimed the session, on whichever thread it is; of the
  // registry, under its mutex, while nobody has.
  model::Policy policy;
  std::vector<int32_t> tokens;
  Conversation conversation;
  RequestLog requests;  // answers to repeat, of requests that carried an id

  // Engine thread only.
  kvstore::BlockTable
      table;  // KV of the first table.num_tokens() tokens: at most all but the newest
  // Tokens from the start whose KV it had when it last had most, of the tokens that it still has:
  // what it must compute of these is restored, not new.
  int32_t had_kv = 0;
  SessionAudit audit;
  bool deleted = false;
  uint64_t last_used = 0;  // larger is later
};

}  // namespace spotd::engine
