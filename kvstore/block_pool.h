// A fixed number of interchangeable blocks with reference counts. Knows ids only, no memory.
//
// Free blocks are handed out lowest id first, so that a lightly loaded server touches little of its
// reserved memory. Thread-safety: none.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kvstore/block_table.h"

namespace spotd::kvstore {

class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  // A block with reference count 1, or nothing when the pool is empty.
  std::optional<BlockId> Allocate();
  void AddReference(BlockId block);
  // Drops one reference; true when it was the last. Then the block is neither free nor in use until
  // Free or Revive.
  [[nodiscard]] bool Unreference(BlockId block);
  void Free(BlockId block);
  // Gives the block a first reference again.
  void Revive(BlockId block);

  int32_t references(BlockId block) const { return references_[block]; }
  int32_t num_blocks() const { return static_cast<int32_t>(references_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_shared() const { return num_shared_; }

 private:
  std::vector<int32_t> references_;  // by block id
  std::vector<BlockId> free_;        // min-heap
  int32_t num_shared_ = 0;
};

}  // namespace spotd::kvstore
