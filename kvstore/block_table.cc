#include "kvstore/block_table.h"

#include <utility>

#include "kvstore/kv_store.h"

namespace spotd::kvstore {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      blocks_(std::exchange(other.blocks_, {})),
      num_tokens_(std::exchange(other.num_tokens_, 0)),
      shareable_(std::exchange(other.shareable_, 0)),
      keys_(std::exchange(other.keys_, {})) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  Release();
  store_ = std::exchange(other.store_, nullptr);
  blocks_ = std::exchange(other.blocks_, {});
  num_tokens_ = std::exchange(other.num_tokens_, 0);
  shareable_ = std::exchange(other.shareable_, 0);
  keys_ = std::exchange(other.keys_, {});
  return *this;
}

BlockTable::~BlockTable() {
  Release();
}

void BlockTable::Release() {
  // From the end: of kept blocks the last are of least use without those before them, and go first.
  for (; !blocks_.empty(); blocks_.pop_back()) store_->ReleaseBlock(blocks_.back());
  num_tokens_ = 0;
  shareable_ = 0;
  keys_.clear();
}

}  // namespace spotd::kvstore
