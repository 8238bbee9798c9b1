// What the prefill attention kernels share: how thread blocks find their query rows.
#pragma once

#include "kernels/cuda/paged.cuh"

namespace spotd::kernels::cuda {

// A run of rows of one sequence.
struct RowTile {
  int32_t seq;        // -1: nothing to do
  int32_t first_row;  // of the step
  int32_t rows;
  int32_t first_token;  // of the sequence: the first row's own
};

// Thread block tiles are numbered through the sequences, `tile_rows` rows each, a sequence's last
// tile short.
__device__ inline RowTile FindRowTile(const SequenceBatch& batch, int tile, int tile_rows) {
  for (int32_t seq = 0; seq < batch.num_seqs; ++seq) {
    const int32_t start = batch.row_start[seq];
    const int32_t rows = batch.row_start[seq + 1] - start;
    const int32_t tiles = (rows + tile_rows - 1) / tile_rows;
    if (tile < tiles) {
      const int32_t offset = tile * tile_rows;
      return {seq, start + offset, min(tile_rows, rows - offset),
              batch.kv_len[seq] - rows + offset};
    }
    tile -= tiles;
  }
  return {-1, 0, 0, 0};
}

// Tiles that a step may have: the host knows the totals only.
inline int MaxRowTiles(const SequenceBatch& batch, int tile_rows) {
  return batch.num_rows / tile_rows + batch.num_seqs;
}

}  // namespace spotd::kernels::cuda
