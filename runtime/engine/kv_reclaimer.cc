#include "runtime/engine/kv_reclaimer.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace spotd::engine {

void KvReclaimer::Unpin(Session* session) {
  pinned_.erase(std::remove(pinned_.begin(), pinned_.end(), session), pinned_.end());
}

bool KvReclaimer::IsPinned(const Session& session) const {
  return std::find(pinned_.begin(), pinned_.end(), &session) != pinned_.end();
}

int32_t KvReclaimer::FreeBlocks() const {
  const kvstore::KvStats stats = store_->stats();
  return stats.blocks_total - stats.blocks_used;
}

int32_t KvReclaimer::AvailableBlocks() const {
  // Pinned sessions may share blocks among themselves: each block counts once.
  std::vector<bool> held(store_->stats().blocks_total, false);
  for (const Session* session : pinned_) {
    for (const kvstore::BlockId block : session->table.blocks()) held[block] = true;
  }
  return static_cast<int32_t>(std::count(held.begin(), held.end(), false));
}

int32_t KvReclaimer::BlocksNeeded(const kvstore::BlockTable& table, int32_t tokens) const {
  const int32_t needed = store_->BlocksNeeded(table, tokens);
  if (needed == 0 || !store_->LastBlockIsShared(table)) return needed;
  const kvstore::BlockId last = table.blocks()[table.num_tokens() / store_->layout().block_tokens];
  const auto holds_it = [last](const Session* session) {
    const std::vector<kvstore::BlockId>& blocks = session->table.blocks();
    return std::find(blocks.begin(), blocks.end(), last) != blocks.end();
  };
  return std::count_if(pinned_.begin(), pinned_.end(), holds_it) > 1 ? needed : needed - 1;
}

void KvReclaimer::MakeRoom(const kvstore::BlockTable& table, int32_t tokens) {
  while (FreeBlocks() < store_->BlocksNeeded(table, tokens)) {
    const std::shared_ptr<Session> victim = ChooseVictim();
    if (victim == nullptr) return;
    metrics_->kv_reclaims.fetch_add(1);
    metrics_->kv_reclaimed_tokens.fetch_add(victim->table.num_tokens());
    store_->Truncate(&victim->table, 0);
    registry_->PublishKv(*victim);
  }
}

std::shared_ptr<Session> KvReclaimer::ChooseVictim() const {
  // Sessions that share all their blocks free nothing by themselves: they come last.
  using Rank = std::pair<bool, uint64_t>;
  std::shared_ptr<Session> victim;
  Rank best;
  for (std::shared_ptr<Session>& session : registry_->All()) {
    if (session->table.blocks().empty() || IsPinned(*session)) continue;
    const Rank rank = {store_->ExclusiveBlocks(session->table) == 0, session->last_used};
    if (victim != nullptr && rank >= best) continue;
    best = rank;
    victim = std::move(session);
  }
  return victim;
}

}  // namespace spotd::engine
