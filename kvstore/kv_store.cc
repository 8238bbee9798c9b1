#include "kvstore/kv_store.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace spotd::kvstore {
namespace {

absl::Status CheckPositive(std::string_view field, int32_t value) {
  if (value > 0) return absl::OkStatus();
  return InvalidArgument("KV layout: ", field, " is ", value, "; it must be positive");
}

absl::Status CheckLayout(const KvLayout& layout) {
  SPOTD_RETURN_IF_ERROR(CheckPositive("layers", layout.layers));
  SPOTD_RETURN_IF_ERROR(CheckPositive("kv_heads", layout.kv_heads));
  SPOTD_RETURN_IF_ERROR(CheckPositive("head_dim", layout.head_dim));
  if (layout.block_tokens != 16 && layout.block_tokens != 32 && layout.block_tokens != 64) {
    return InvalidArgument("KV layout: block_tokens is ", layout.block_tokens,
                           "; it must be 16, 32 or 64");
  }
  if (layout.selector_format != kernels::SelectorKeyFormat::kNone) {
    SPOTD_RETURN_IF_ERROR(CheckPositive("selector_dim", layout.selector_dim));
  }
  return absl::OkStatus();
}

// Address of one (layer, block) in an array [layers, num_blocks, block_bytes].
std::byte* At(const kernels::Buffer& array, int32_t num_blocks, size_t block_bytes, int32_t layer,
              BlockId block) {
  return array.as<std::byte>() + (size_t(layer) * num_blocks + block) * block_bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvStore>> KvStore::Create(kernels::Backend* backend,
                                                         const KvLayout& layout,
                                                         size_t memory_bytes) {
  SPOTD_RETURN_IF_ERROR(CheckLayout(layout));
  const size_t blocks = memory_bytes / layout.BytesPerBlock();
  if (blocks == 0) {
    return InvalidArgument("KV memory of ", memory_bytes, " bytes holds no block; one block of ",
                           layout.block_tokens, " tokens takes ", layout.BytesPerBlock(), " bytes");
  }
  const auto num_blocks =
      static_cast<int32_t>(std::min<size_t>(blocks, std::numeric_limits<int32_t>::max()));
  std::unique_ptr<KvStore> store(new KvStore(backend, layout, num_blocks));
  const size_t count = size_t(layout.layers) * num_blocks;
  SPOTD_ASSIGN_OR_RETURN(store->kv_, backend->Allocate(count * layout.KvBlockBytes()));
  if (layout.summaries) {
    SPOTD_ASSIGN_OR_RETURN(store->summaries_,
                           backend->Allocate(count * layout.SummaryBlockBytes()));
  }
  if (layout.SelectorBlockBytes() > 0) {
    SPOTD_ASSIGN_OR_RETURN(store->selector_,
                           backend->Allocate(count * layout.SelectorBlockBytes()));
  }
  return store;
}

KvStore::KvStore(kernels::Backend* backend, const KvLayout& layout, int32_t num_blocks)
    : backend_(backend), layout_(layout), pool_(num_blocks) {}

BlockTable KvStore::NewTable() {
  return BlockTable(this);
}

bool KvStore::LastBlockIsShared(const BlockTable& table) const {
  if (table.num_tokens_ % layout_.block_tokens == 0) return false;
  return pool_.references(table.blocks_[table.num_tokens_ / layout_.block_tokens]) > 1;
}

int32_t KvStore::BlocksNeeded(const BlockTable& table, int32_t tokens) const {
  if (tokens <= 0) return 0;
  const int32_t blocks = BlocksFor(table.num_tokens_ + tokens);
  const int32_t missing = std::max(0, blocks - static_cast<int32_t>(table.blocks_.size()));
  return missing + (LastBlockIsShared(table) ? 1 : 0);
}

absl::Status KvStore::Reserve(BlockTable* table, int32_t tokens) {
  SPOTD_CHECK(table->store_ == this);
  SPOTD_CHECK(tokens >= 0);
  const int32_t needed = BlocksNeeded(*table, tokens);
  if (needed > Available()) {
    return ResourceExhausted("KV memory is full: ", needed, " blocks needed, ", Available(), " of ",
                             pool_.num_blocks(), " free");
  }
  // A block cut off within is about to get other tokens.
  const bool partial = table->num_tokens_ % layout_.block_tokens != 0;
  if (tokens > 0 && partial && !LastBlockIsShared(*table)) {
    index_.Erase(table->blocks_[table->num_tokens_ / layout_.block_tokens]);
  }
  if (needed == 0) return absl::OkStatus();
  int32_t to_append = needed;
  if (LastBlockIsShared(*table)) {
    BlockId& last = table->blocks_[table->num_tokens_ / layout_.block_tokens];
    const BlockId copy = AllocateBlock();
    CopyBlock(copy, last);
    ReleaseBlock(last);
    last = copy;
    --to_append;
  }
  for (; to_append > 0; --to_append) table->blocks_.push_back(AllocateBlock());
  return absl::OkStatus();
}

void KvStore::Commit(BlockTable* table, int32_t tokens) {
  SPOTD_CHECK(tokens >= 0);
  SPOTD_CHECK(BlocksFor(table->num_tokens_ + tokens) <=
              static_cast<int32_t>(table->blocks_.size()));
  table->num_tokens_ += tokens;
}

uint64_t KvStore::KeyOf(const BlockTable& table, size_t blocks, const std::string& owner) const {
  return blocks == 0 ? PrefixIndex::RootKey(owner) : table.keys_[blocks - 1];
}

void KvStore::CommitShareable(BlockTable* table, int32_t tokens, const std::string& owner,
                              std::span<const int32_t> all) {
  const bool shareable = table->shareable_ == table->num_tokens_;
  Commit(table, tokens);
  if (!shareable) return;
  SPOTD_CHECK(static_cast<int32_t>(all.size()) >= table->num_tokens_);
  table->shareable_ = table->num_tokens_;
  const auto block_tokens = static_cast<size_t>(layout_.block_tokens);
  const size_t whole = table->shareable_ / block_tokens;
  for (size_t i = table->keys_.size(); i < whole; ++i) {
    const uint64_t parent = KeyOf(*table, i, owner);
    const auto content = all.subspan(i * block_tokens, block_tokens);
    index_.Insert(owner, parent, content, table->blocks_[i]);
    table->keys_.push_back(PrefixIndex::NextKey(parent, content));
  }
}

int32_t KvStore::AdoptPrefix(BlockTable* table, const std::string& owner,
                             std::span<const int32_t> tokens) {
  if (table->shareable_ != table->num_tokens_) return 0;
  const auto block_tokens = static_cast<size_t>(layout_.block_tokens);
  const size_t own = table->num_tokens_ / block_tokens;
  SPOTD_CHECK(table->keys_.size() == own);
  std::vector<BlockId> found;
  uint64_t key = KeyOf(*table, own, owner);
  std::vector<uint64_t> keys;
  for (size_t i = own; (i + 1) * block_tokens <= tokens.size(); ++i) {
    const auto content = tokens.subspan(i * block_tokens, block_tokens);
    const auto block = index_.Find(owner, key, content);
    if (!block) break;
    key = PrefixIndex::NextKey(key, content);
    found.push_back(*block);
    keys.push_back(key);
  }
  if (found.empty()) return 0;
  const int32_t before = table->num_tokens_;
  for (const BlockId block : found) {
    kept_.Remove(block) ? pool_.Revive(block) : pool_.AddReference(block);
  }
  Truncate(table, static_cast<int32_t>(own * block_tokens));
  table->blocks_.insert(table->blocks_.end(), found.begin(), found.end());
  table->keys_.insert(table->keys_.end(), keys.begin(), keys.end());
  table->num_tokens_ = static_cast<int32_t>(table->blocks_.size() * block_tokens);
  table->shareable_ = table->num_tokens_;
  return table->num_tokens_ - before;
}

void KvStore::ReleaseBlock(BlockId block) {
  if (!pool_.Unreference(block)) return;
  if (max_kept_ > 0 && index_.Has(block)) {
    if (kept_.size() == max_kept_) GiveUpOldest();
    kept_.Add(block);
    return;
  }
  index_.Erase(block);
  pool_.Free(block);
}

BlockId KvStore::AllocateBlock() {
  if (pool_.num_free() == 0) GiveUpOldest();
  return *pool_.Allocate();
}

void KvStore::GiveUpOldest() {
  const BlockId oldest = kept_.TakeOldest();
  index_.Erase(oldest);
  pool_.Free(oldest);
  ++kept_given_up_;
}

void KvStore::Truncate(BlockTable* table, int32_t tokens) {
  SPOTD_CHECK(tokens >= 0 && tokens <= table->num_tokens_);
  const auto keep = static_cast<size_t>(BlocksFor(tokens));
  while (table->blocks_.size() > keep) {
    ReleaseBlock(table->blocks_.back());
    table->blocks_.pop_back();
  }
  table->num_tokens_ = tokens;
  table->shareable_ = std::min(table->shareable_, tokens);
  const size_t whole = table->shareable_ / layout_.block_tokens;
  if (table->keys_.size() > whole) table->keys_.resize(whole);
}

BlockTable KvStore::Fork(const BlockTable& table) {
  BlockTable fork(this);
  fork.num_tokens_ = table.num_tokens_;
  fork.shareable_ = table.shareable_;
  fork.keys_ = table.keys_;
  fork.blocks_.assign(table.blocks_.begin(), table.blocks_.begin() + BlocksFor(table.num_tokens_));
  for (const BlockId block : fork.blocks_) pool_.AddReference(block);
  return fork;
}

int32_t KvStore::ExclusiveBlocks(const BlockTable& table) const {
  return static_cast<int32_t>(
      std::count_if(table.blocks_.begin(), table.blocks_.end(),
                    [this](BlockId block) { return pool_.references(block) == 1; }));
}

kernels::KvLayer KvStore::LayerView(int32_t layer) const {
  SPOTD_CHECK(layer >= 0 && layer < layout_.layers);
  const int32_t blocks = pool_.num_blocks();
  kernels::KvLayer view = {};
  view.kv = At(kv_, blocks, layout_.KvBlockBytes(), layer, 0);
  if (summaries_.data() != nullptr) {
    view.summary = At(summaries_, blocks, layout_.SummaryBlockBytes(), layer, 0);
  }
  if (selector_.data() != nullptr) {
    view.selector_keys = At(selector_, blocks, layout_.SelectorBlockBytes(), layer, 0);
  }
  view.num_blocks = blocks;
  view.block_tokens = layout_.block_tokens;
  view.kv_heads = layout_.kv_heads;
  view.head_dim = layout_.head_dim;
  view.selector_dim = layout_.selector_dim;
  view.selector_format = layout_.selector_format;
  return view;
}

KvStats KvStore::stats() const {
  KvStats stats;
  stats.blocks_total = pool_.num_blocks();
  stats.blocks_used = pool_.num_blocks() - Available();
  stats.blocks_kept = kept_.size();
  stats.kept_given_up = kept_given_up_;
  stats.blocks_shared = pool_.num_shared();
  stats.bytes_per_block = layout_.BytesPerBlock();
  stats.copies_on_write = copies_on_write_;
  stats.blocks_offered = static_cast<int32_t>(index_.size());
  return stats;
}

int32_t KvStore::BlocksFor(int32_t tokens) const {
  return (tokens + layout_.block_tokens - 1) / layout_.block_tokens;
}

void KvStore::CopyBlock(BlockId to, BlockId from) {
  const int32_t blocks = pool_.num_blocks();
  const auto copy = [&](const kernels::Buffer& array, size_t block_bytes, int32_t layer) {
    if (array.data() == nullptr) return;
    backend_->Copy(At(array, blocks, block_bytes, layer, to),
                   At(array, blocks, block_bytes, layer, from), block_bytes);
  };
  for (int32_t layer = 0; layer < layout_.layers; ++layer) {
    copy(kv_, layout_.KvBlockBytes(), layer);
    copy(summaries_, layout_.SummaryBlockBytes(), layer);
    copy(selector_, layout_.SelectorBlockBytes(), layer);
  }
  ++copies_on_write_;
}

}  // namespace spotd::kvstore
