// Finds blocks by what is in them: whole blocks of KV that are a function of the tokens before
// their end and of nothing else, so that a sequence which begins with the same tokens need not
// compute them again.
//
// A block's key is a hash chained over its owner's name and all tokens up to its end. Owner, parent
// key and the block's own tokens are compared too, so blocks of one owner are never found by
// another. The index holds no references: whoever frees or overwrites a block erases it here.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "kvstore/block_table.h"

namespace spotd::kvstore {

class PrefixIndex {
 public:
  // Of an owner's empty prefix.
  static uint64_t RootKey(const std::string& owner);
  // Of the prefix that `tokens`, one block, extends.
  static uint64_t NextKey(uint64_t parent, std::span<const int32_t> tokens);

  // The block that follows the prefix `parent` with these tokens.
  std::optional<BlockId> Find(const std::string& owner, uint64_t parent,
                              std::span<const int32_t> tokens) const;
  // The first block inserted for a prefix stays.
  void Insert(const std::string& owner, uint64_t parent, std::span<const int32_t> tokens,
              BlockId block);
  // No effect on a block that is not in the index.
  void Erase(BlockId block);
  bool Has(BlockId block) const { return by_block_.contains(block); }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string owner;
    uint64_t parent;
    std::vector<int32_t> tokens;
    BlockId block;
  };
  std::unordered_map<uint64_t, Entry> entries_;     // by key
  std::unordered_map<BlockId, uint64_t> by_block_;  // key of each block in the index
};

}  // namespace spotd::kvstore
