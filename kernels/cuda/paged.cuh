// Addressing of the paged cache (KvLayer, SequenceBatch in args.h) on the device.
#pragma once

#include "kernels/args.h"
#include "kernels/cuda/device.cuh"

namespace spotd::kernels::cuda {

// Where a row's token lives: its sequence and its index within it.
struct RowPlace {
  int32_t seq;
  int32_t token;
};

// Sequence s owns rows [row_start[s], row_start[s + 1]), its newest tokens.
__device__ inline RowPlace FindRow(const SequenceBatch& batch, int32_t row) {
  int32_t seq = row;
  if (batch.num_rows != batch.num_seqs || batch.row_start[row] != row) {
    int32_t low = 0;
    int32_t high = batch.num_seqs - 1;
    while (low < high) {
      const int32_t middle = (low + high + 1) / 2;
      if (batch.row_start[middle] <= row) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    seq = low;
  }
  return {seq, batch.kv_len[seq] - (batch.row_start[seq + 1] - row)};
}

__device__ inline int32_t PhysicalBlock(const SequenceBatch& batch, int32_t seq, int32_t block) {
  return batch.block_tables[int64_t{seq} * batch.table_stride + block];
}

// Elements of K and V of one block.
__device__ inline int64_t KvBlockElements(const KvLayer& layer) {
  return int64_t{2} * layer.kv_heads * layer.block_tokens * layer.head_dim;
}
// K of (block, head): [block_tokens, head_dim]. V lies ValueOffset elements further.
__device__ inline Bf16x* KeyRows(const KvLayer& layer, int32_t physical, int32_t head) {
  return static_cast<Bf16x*>(layer.kv) + physical * KvBlockElements(layer) +
         int64_t{head} * layer.block_tokens * layer.head_dim;
}
__device__ inline int64_t ValueOffset(const KvLayer& layer) {
  return int64_t{layer.kv_heads} * layer.block_tokens * layer.head_dim;
}
// Bounds of K in (block, head): [2 (min then max), head_dim].
__device__ inline Bf16x* SummaryRows(const KvLayer& layer, int32_t physical, int32_t head) {
  return static_cast<Bf16x*>(layer.summary) +
         (int64_t{physical} * layer.kv_heads + head) * 2 * layer.head_dim;
}

}  // namespace spotd::kernels::cuda
