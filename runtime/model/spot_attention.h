// The heart of a decode step: each row attends to the blocks that its policy's chooser picks
// (DESIGN 2, steps 2-6).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/args.h"
#include "kernels/backend.h"
#include "runtime/model/decode_plan.h"

namespace spotd::model {

// One layer of one decode step. Pointers are in backend memory, for all rows of the step; see
// args.h for shapes.
struct SpotAttentionArgs {
  const DecodePlan* plan;
  int32_t layer_index;
  kernels::SequenceBatch batch;
  kernels::KvLayer layer;
  int32_t q_heads;
  float scale;
  const void* q;           // [rows, q_heads, D] Act, after RoPE
  int32_t selector_heads;  // 0 without a selector
  const void* selector_q;  // [rows, H_s, d_s] Act, after RoPE; read where the plan uses kSelector
  const void* selector_w;  // [rows, the plan's selector groups, H_s] Act
  const kernels::BudgetRule* rules;  // [rows]
  float* block_lse;                  // scratch [rows, kv_heads, table_stride]
  int32_t* selected;  // out [rows, kv_heads, table_stride]: a range with one group uses the front
                      // of its part
  int32_t*
      counts;  // out [layers, rows, kv_heads]; DecodePlan::ChoiceOffset. Not written for dense rows
  float* covered_mass;  // as counts
  void* out;            // [rows, q_heads, D] Act
};

// Rows [begin, begin + rows) of a decode batch, as a batch of their own.
kernels::SequenceBatch SliceBatch(const kernels::SequenceBatch& batch, int32_t begin, int32_t rows);

void SpotAttention(kernels::Backend* backend, const SpotAttentionArgs& args);

}  // namespace spotd::model
