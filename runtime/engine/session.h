// A session as the engine holds it. Who may touch what is fixed per member.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvstore/block_table.h"
#include "runtime/engine/conversation.h"
#include "runtime/model/policy.h"

namespace spotd::engine {

struct Session {
  // Fixed at creation: any thread.
  std::string id;  // empty: of a one-shot request, known to nobody else
  std::string display_name;
  model::Policy policy;
  int64_t create_time_ms = 0;  // Unix time

  // Content. Of the request that has claimed the session, on whichever thread it is; of the
  // registry, under its mutex, while nobody has.
  std::vector<int32_t> tokens;
  Conversation conversation;

  // Engine thread only.
  kvstore::BlockTable
      table;  // KV of the first table.num_tokens() tokens: at most all but the newest
  bool deleted = false;
  uint64_t last_used = 0;  // larger is later
};

}  // namespace spotd::engine
