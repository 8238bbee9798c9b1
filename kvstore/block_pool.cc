#include "kvstore/block_pool.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "kernels/core/check.h"

namespace spotd::kvstore {

// Ascending ids are a min-heap already.
BlockPool::BlockPool(int32_t num_blocks) : references_(num_blocks, 0), free_(num_blocks) {
  std::iota(free_.begin(), free_.end(), 0);
}

std::optional<BlockId> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const BlockId block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockPool::AddReference(BlockId block) {
  SPOTD_CHECK(references_[block] > 0);
  if (++references_[block] == 2) ++num_shared_;
}

bool BlockPool::Unreference(BlockId block) {
  SPOTD_CHECK(references_[block] > 0);
  const int32_t left = --references_[block];
  if (left == 1) --num_shared_;
  return left == 0;
}

void BlockPool::Free(BlockId block) {
  SPOTD_CHECK(references_[block] == 0);
  free_.push_back(block);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

void BlockPool::Revive(BlockId block) {
  SPOTD_CHECK(references_[block] == 0);
  references_[block] = 1;
}

}  // namespace spotd::kvstore
