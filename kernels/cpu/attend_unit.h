// One unit of work of decode attention and of the oracle's score.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/args.h"
#include "kernels/core/float16.h"
#include "kernels/paged.h"

namespace spotd::kernels::cpu {

// Consecutive entries of a row's list of blocks, seen by one KV head.
struct Stretch {
  const KvLayer* layer;
  const int32_t* table;   // the row's block table
  const int32_t* chosen;  // block indices of this stretch; null: first, first + 1, ...
  int32_t first;
  int32_t blocks;
  int32_t blocks_after;  // of the row's list, behind this stretch
  int32_t last_tokens;   // tokens of the last block; the others are full
  int32_t kv_head;
  const Stretch* next;  // nullable: what the thread is likely to run next, to be prefetched

  const Bf16* Keys(int32_t i) const {
    return BlockKeys(*layer, table[chosen == nullptr ? first + i : chosen[i]], kv_head);
  }
  int32_t TokensOf(int32_t i) const { return i + 1 == blocks ? last_tokens : layer->block_tokens; }
};

// Tokens of one unit. Small enough that the units of a single short row keep several threads busy.
inline constexpr int32_t kStretchTokens = 256;

inline int32_t StretchBlocks(int32_t block_tokens) {
  return std::max(1, kStretchTokens / block_tokens);
}

// Stretch number `index`, of `size` blocks, of a row. chosen: the row's list of `count` blocks, or
// null for all of them.
inline Stretch MakeStretch(const SequenceBatch& batch, const KvLayer& layer, int32_t row,
                           int32_t kv_head, const int32_t* chosen, int32_t count, int32_t index,
                           int32_t size) {
  Stretch s = {};
  s.layer = &layer;
  s.table = batch.block_tables + int64_t{row} * batch.table_stride;
  s.kv_head = kv_head;
  s.first = index * size;
  s.chosen = chosen == nullptr ? nullptr : chosen + s.first;
  s.blocks = std::min(size, count - s.first);
  s.blocks_after = count - s.first - s.blocks;
  const int32_t last = chosen == nullptr ? s.first + s.blocks - 1 : s.chosen[s.blocks - 1];
  s.last_tokens = std::min(layer.block_tokens, batch.kv_len[row] - last * layer.block_tokens);
  return s;
}

}  // namespace spotd::kernels::cpu
