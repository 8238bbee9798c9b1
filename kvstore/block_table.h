// The blocks of one sequence: which physical block holds tokens [i * block_tokens, (i + 1) *
// block_tokens).
//
// A table owns one reference to each of its blocks; destroying it gives them back, so a sequence
// cannot leak KV. Move-only: copying KV is never implicit (KvStore::Fork shares blocks,
// copy-on-write). Not thread-safe: owned by the engine thread, like the store itself, which must
// outlive it.
#pragma once

#include <cstdint>
#include <vector>

namespace spotd::kvstore {

using BlockId = int32_t;
class KvStore;

class BlockTable {
 public:
  BlockTable() = default;
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  ~BlockTable();

  // Tokens whose KV is in the cache.
  int32_t num_tokens() const { return num_tokens_; }
  // Physical blocks, including those reserved but not yet filled.
  const std::vector<BlockId>& blocks() const { return blocks_; }

 private:
  friend class KvStore;
  explicit BlockTable(KvStore* store) : store_(store) {}
  void Release();

  KvStore* store_ = nullptr;
  std::vector<BlockId> blocks_;
  int32_t num_tokens_ = 0;
  // KV of the first so many tokens depends on the tokens alone; keys of the whole blocks of these
  // that have been offered to others.
  int32_t shareable_ = 0;
  std::vector<uint64_t> keys_;
};

}  // namespace spotd::kvstore
