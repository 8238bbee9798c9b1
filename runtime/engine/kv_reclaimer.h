// Finds room in the KV store by dropping the KV of sessions on which nothing runs, least recently
// used first. Their tokens stay, and the next request on them computes the KV again: so no set of
// idle sessions can wedge the engine.
//
// Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvstore/kv_store.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/session_registry.h"

namespace spotd::engine {

class KvReclaimer {
 public:
  KvReclaimer(kvstore::KvStore* store, SessionRegistry* registry, Metrics* metrics)
      : store_(store), registry_(registry), metrics_(metrics) {}

  // A pinned session's KV is not dropped.
  void Pin(Session* session) { pinned_.push_back(session); }
  void Unpin(Session* session);

  int32_t FreeBlocks() const;
  // Blocks that are free or would be with all unpinned KV dropped.
  int32_t AvailableBlocks() const;
  // Blocks that `tokens` more tokens of a pinned session's table take once all unpinned KV is
  // dropped: one that is shared with unpinned sessions only need not be copied then.
  int32_t BlocksNeeded(const kvstore::BlockTable& table, int32_t tokens) const;
  // Blocks that a tenant's pinned sessions hold.
  int32_t PinnedBlocks(const std::string& tenant) const;
  // Drops KV of the tenant's unpinned sessions until all its sessions together hold at most `limit`
  // blocks, or there is no more to drop.
  void ShrinkTenant(const std::string& tenant, int32_t limit);
  // Drops KV until the store can reserve `tokens` for the table, or there is no more to drop.
  void MakeRoom(const kvstore::BlockTable& table, int32_t tokens);

 private:
  bool IsPinned(const Session& session) const;
  // The unpinned session to drop next, of one tenant or of any; null when none has KV.
  std::shared_ptr<Session> ChooseVictim(const std::string* tenant = nullptr) const;
  void Drop(Session* session);

  kvstore::KvStore* store_;
  SessionRegistry* registry_;
  Metrics* metrics_;
  std::vector<Session*> pinned_;
};

}  // namespace spotd::engine
