#include "kvstore/block_table.h"

#include <utility>

#include "kvstore/kv_store.h"

namespace spotd::kvstore {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      blocks_(std::exchange(other.blocks_, {})),
      num_tokens_(std::exchange(other.num_tokens_, 0)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  Release();
  store_ = std::exchange(other.store_, nullptr);
  blocks_ = std::exchange(other.blocks_, {});
  num_tokens_ = std::exchange(other.num_tokens_, 0);
  return *this;
}

BlockTable::~BlockTable() {
  Release();
}

void BlockTable::Release() {
  for (const BlockId block : blocks_) store_->pool_.Release(block);
  blocks_.clear();
  num_tokens_ = 0;
}

}  // namespace spotd::kvstore
