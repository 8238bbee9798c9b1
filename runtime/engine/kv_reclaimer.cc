#include "runtime/engine/kv_reclaimer.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace spotd::engine {
namespace {

// Distinct blocks of several tables.
class BlockSet {
 public:
  explicit BlockSet(int32_t blocks) : held_(blocks, false) {}
  void Add(const kvstore::BlockTable& table) {
    for (const kvstore::BlockId block : table.blocks()) {
      count_ += held_[block] ? 0 : 1;
      held_[block] = true;
    }
  }
  int32_t count() const { return count_; }

 private:
  std::vector<bool> held_;
  int32_t count_ = 0;
};

}  // namespace

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
  const int32_t total = store_->stats().blocks_total;
  BlockSet held(total);
  for (const Session* session : pinned_) held.Add(session->table);
  return total - held.count();
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
    Drop(victim.get());
  }
}

void KvReclaimer::Drop(Session* session) {
  metrics_->kv_reclaims.fetch_add(1);
  metrics_->kv_reclaimed_tokens.fetch_add(session->table.num_tokens());
  session->had_kv = std::max(session->had_kv, session->table.num_tokens());
  store_->Truncate(&session->table, 0);
  registry_->PublishKv(*session);
}

int32_t KvReclaimer::PinnedBlocks(const std::string& tenant) const {
  BlockSet blocks(store_->stats().blocks_total);
  for (const Session* session : pinned_) {
    if (session->tenant == tenant) blocks.Add(session->table);
  }
  return blocks.count();
}

void KvReclaimer::ShrinkTenant(const std::string& tenant, int32_t limit) {
  for (;;) {
    BlockSet blocks(store_->stats().blocks_total);
    for (const Session* session : pinned_) {
      if (session->tenant == tenant) blocks.Add(session->table);
    }
    for (const std::shared_ptr<Session>& session : registry_->All()) {
      if (session->tenant == tenant) blocks.Add(session->table);
    }
    if (blocks.count() <= limit) return;
    const std::shared_ptr<Session> victim = ChooseVictim(&tenant);
    if (victim == nullptr) return;
    Drop(victim.get());
  }
}

std::shared_ptr<Session> KvReclaimer::ChooseVictim(const std::string* tenant) const {
  // Sessions that share all their blocks free nothing by themselves: they come last.
  using Rank = std::pair<bool, uint64_t>;
  std::shared_ptr<Session> victim;
  Rank best;
  for (std::shared_ptr<Session>& session : registry_->All()) {
    if (session->table.blocks().empty() || IsPinned(*session)) continue;
    if (tenant != nullptr && session->tenant != *tenant) continue;
    const Rank rank = {store_->ExclusiveBlocks(session->table) == 0, session->last_used};
    if (victim != nullptr && rank >= best) continue;
    best = rank;
    victim = std::move(session);
  }
  return victim;
}

}  // namespace spotd::engine
