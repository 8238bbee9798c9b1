// Blocks that no table holds any longer and that are kept for their content, least recently used
// first. Knows ids only. Not thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>

#include "kvstore/block_table.h"

namespace spotd::kvstore {

class KeptBlocks {
 public:
  void Add(BlockId block) { places_[block] = order_.insert(order_.end(), block); }
  // False when it is not kept.
  bool Remove(BlockId block) {
    const auto place = places_.find(block);
    if (place == places_.end()) return false;
    order_.erase(place->second);
    places_.erase(place);
    return true;
  }
  // There must be one.
  BlockId TakeOldest() {
    const BlockId oldest = order_.front();
    Remove(oldest);
    return oldest;
  }
  int32_t size() const { return static_cast<int32_t>(places_.size()); }

 private:
  std::list<BlockId> order_;
  std::unordered_map<BlockId, std::list<BlockId>::iterator> places_;
};

}  // namespace spotd::kvstore
