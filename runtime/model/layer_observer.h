// Lets a selector's training see the inputs of each layer's attention while the frozen model runs.
#pragma once

#include <cstdint>

#include "kernels/args.h"

namespace spotd::model {

// One layer of a prefill of one or several chunks. Pointers are in backend memory and valid only
// during the call.
struct LayerView {
  int32_t layer;
  int32_t rows;                // tokens of all chunks
  const void* x;               // [rows, hidden] Act: normalised input of the attention block
  const void* q;               // [rows, q_heads, head_dim] Act: queries after RoPE
  kernels::KvLayer kv;         // this layer's cache; the chunks' K and V are in it
  int32_t sequences;           // chunks, one of each sequence
  const int32_t* block_table;  // [sequences, table_stride] the sequences' blocks
  int32_t table_stride;
  const int32_t* positions;  // [rows] RoPE positions
};

class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // Called once a layer, in order, on the thread that runs the prefill. May issue operations on the
  // same backend.
  virtual void OnLayer(const LayerView& view) = 0;
};

}  // namespace spotd::model
