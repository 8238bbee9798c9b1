// Addressing of the paged cache (KvLayer, SequenceBatch in args.h) on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/args.h"
#include "kernels/core/float16.h"

namespace spotd::kernels {

// Blocks that hold `tokens` tokens.
constexpr int32_t NumBlocks(int32_t tokens, int32_t block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

inline int32_t PhysicalBlock(const SequenceBatch& batch, int32_t seq, int32_t block) {
  return batch.block_tables[int64_t{seq} * batch.table_stride + block];
}

// Elements of K, or of V, of one head in one block.
inline int64_t HeadElements(const KvLayer& layer) {
  return int64_t{layer.block_tokens} * layer.head_dim;
}

// K of one head in one physical block: [block_tokens, head_dim].
inline Bf16* BlockKeys(const KvLayer& layer, int32_t physical, int32_t kv_head) {
  return static_cast<Bf16*>(layer.kv) +
         (int64_t{2} * physical * layer.kv_heads + kv_head) * HeadElements(layer);
}
inline Bf16* BlockValues(const KvLayer& layer, int32_t physical, int32_t kv_head) {
  return BlockKeys(layer, physical, kv_head) + layer.kv_heads * HeadElements(layer);
}

// The bounds of K of one head in one block: [2 (min then max), head_dim].
inline Bf16* BlockSummary(const KvLayer& layer, int32_t physical, int32_t kv_head) {
  return static_cast<Bf16*>(layer.summary) +
         (int64_t{physical} * layer.kv_heads + kv_head) * 2 * layer.head_dim;
}

// The selector keys of one block, in the backend's own order.
inline std::byte* BlockSelectorKeys(const KvLayer& layer, int32_t physical) {
  const size_t key_bytes = SelectorKeyBytes(layer.selector_format, layer.selector_dim);
  return static_cast<std::byte*>(layer.selector_keys) +
         static_cast<size_t>(physical) * static_cast<size_t>(layer.block_tokens) * key_bytes;
}

// Index, within its sequence, of the first token that `seq` appends in this step.
inline int32_t FirstNewToken(const SequenceBatch& batch, int32_t seq) {
  return batch.kv_len[seq] - (batch.row_start[seq + 1] - batch.row_start[seq]);
}

}  // namespace spotd::kernels
