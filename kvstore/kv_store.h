// Grants KV blocks to sequences, shares them between forks, and knows where each layer's bytes are:
// the one class of this folder that `runtime` talks to.
//
// Invariants (tests/kvstore/kv_store_property_test.cc):
//  - references: a block's count equals the number of tables that hold it; it is free, or kept for
//  its content, exactly when that is zero.
//  - single writer: a block that may be written (at or beyond a table's num_tokens) is held by one
//  table only.
//  - exact accounting: blocks in use * layout.BytesPerBlock() bytes, never more than the limit.
//  - pages-return: with no table alive, every block is free or kept.
//  - own content: a table never gets a block of another owner, nor one whose tokens differ from its
//  own.
//
// Residency: today every block lives in the backend's memory (the fast tier). Physical ids are
// private to this class and the tables, and `Reserve` is the only way to obtain one, so a tier
// below can be put behind Reserve and LayerView.
//
// Thread-safety: none; the engine thread owns it. Counters in stats() are plain integers of that
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/backend.h"
#include "kvstore/block_pool.h"
#include "kvstore/block_table.h"
#include "kvstore/kept_blocks.h"
#include "kvstore/kv_layout.h"
#include "kvstore/prefix_index.h"

namespace spotd::kvstore {

struct KvStats {
  int32_t blocks_total = 0;
  int32_t blocks_used = 0;    // referenced by at least one table
  int32_t blocks_shared = 0;  // referenced by more than one table
  size_t bytes_per_block = 0;
  uint64_t copies_on_write = 0;  // blocks copied because a writer shared them
  int32_t blocks_offered = 0;    // whole blocks that AdoptPrefix can find
  int32_t blocks_kept = 0;       // of these, held by no table: given up where others need them
  uint64_t kept_given_up = 0;    // so far, to newer ones or to whoever needed the room
};

class KvStore {
 public:
  // Divides `memory_bytes` of the backend's memory into blocks. INVALID_ARGUMENT when not even one
  // block fits or a layout field is out of range; RESOURCE_EXHAUSTED when the backend cannot give
  // the memory.
  static absl::StatusOr<std::unique_ptr<KvStore>> Create(kernels::Backend* backend,
                                                         const KvLayout& layout,
                                                         size_t memory_bytes);

  BlockTable NewTable();

  // At most so many offered blocks stay findable when their last table lets them go, the least
  // recently used going first. They count as free: Reserve takes them when no other block is left.
  // 0, as it is after Create: none.
  void KeepPrefixes(int32_t blocks) { max_kept_ = blocks; }

  // Makes room for `tokens` more tokens: afterwards positions [num_tokens, num_tokens + tokens) may
  // be written. Allocates blocks and copies a shared last block. RESOURCE_EXHAUSTED (table
  // unchanged) when the pool is short.
  absl::Status Reserve(BlockTable* table, int32_t tokens);
  // Blocks that Reserve would have to take from the pool; admission asks before it promises.
  int32_t BlocksNeeded(const BlockTable& table, int32_t tokens) const;
  // Declares `tokens` reserved positions written.
  void Commit(BlockTable* table, int32_t tokens);
  // Commit, of KV that depends on the tokens alone (dense prefill does, a sparse decode step does
  // not), where everything before it does too: whole blocks are offered to tables of the same
  // owner. `all` are the tokens of the table's positions, at least as far as committed.
  void CommitShareable(BlockTable* table, int32_t tokens, const std::string& owner,
                       std::span<const int32_t> all);
  // Extends the table by whole blocks that others of the owner offer for these tokens (of its
  // positions from 0), as far as its own KV depends on the tokens alone. Takes no free block: they
  // are shared, selector keys and summaries with them. Returns by how many tokens it grew.
  int32_t AdoptPrefix(BlockTable* table, const std::string& owner, std::span<const int32_t> tokens);
  // Keeps the first `tokens` tokens; blocks no longer needed are released, reserved ones among
  // them. tokens <= num_tokens().
  void Truncate(BlockTable* table, int32_t tokens);
  // Shares every block that holds tokens; no KV is copied until one side writes into a shared
  // block. Reserved blocks stay with `table`, which must Reserve again before it writes.
  BlockTable Fork(const BlockTable& table);
  // Whether the partly filled block that the next token goes into has another owner, so that
  // Reserve copies it.
  bool LastBlockIsShared(const BlockTable& table) const;
  // Blocks that would be free again if `table` were dropped: those nobody shares.
  int32_t ExclusiveBlocks(const BlockTable& table) const;

  kernels::KvLayer LayerView(int32_t layer) const;
  const KvLayout& layout() const { return layout_; }
  KvStats stats() const;

 private:
  friend class BlockTable;
  void ReleaseBlock(BlockId block);
  int32_t Available() const { return pool_.num_free() + kept_.size(); }
  BlockId AllocateBlock();  // one must be available
  void GiveUpOldest();
  // Key of the table's first `blocks` whole blocks, which have been offered.
  uint64_t KeyOf(const BlockTable& table, size_t blocks, const std::string& owner) const;
  KvStore(kernels::Backend* backend, const KvLayout& layout, int32_t num_blocks);
  int32_t BlocksFor(int32_t tokens) const;
  void CopyBlock(BlockId to, BlockId from);

  kernels::Backend* backend_;
  KvLayout layout_;
  BlockPool pool_;
  PrefixIndex index_;
  KeptBlocks kept_;
  int32_t max_kept_ = 0;
  uint64_t kept_given_up_ = 0;
  kernels::Buffer kv_;         // [layers, num_blocks, KvBlockBytes]
  kernels::Buffer summaries_;  // [layers, num_blocks, SummaryBlockBytes]
  kernels::Buffer selector_;   // [layers, num_blocks, SelectorBlockBytes]
  uint64_t copies_on_write_ = 0;
};

}  // namespace spotd::kvstore
