// The argument structs of selector training (kernels/distill.h): plain, so that CUDA translation
// units can include them. The conventions of args.h hold.
#pragma once

#include <cstdint>

#include "kernels/args.h"

namespace spotd::kernels {

// One layer's selector parameters, or their gradients, in fp32. Owned by the caller.
struct SelectorTensors {
  float* q;       // [heads * dim, hidden]
  float* k;       // [dim, hidden]
  float* w;       // [heads, hidden]
  float* k_norm;  // [dim]
};

struct DistillArgs {
  int32_t rows;  // tokens of the sequence
  int32_t hidden;
  const void* x;               // [rows, hidden] Act: the attention block's normalised input
  const void* q;               // [rows, q_heads, head_dim] Act: the model's queries after RoPE
  KvLayer layer;               // holds the sequence's K, after RoPE
  const int32_t* block_table;  // [ceil(rows / block_tokens)]
  int32_t q_heads;
  float teacher_scale;  // 1 / sqrt(head_dim)

  int32_t num_queries;
  const int32_t* queries;    // [num_queries] row indices, ascending
  const int32_t* positions;  // [rows] RoPE position of each row
  Rope rope;                 // the selector's own
  int32_t heads;
  int32_t dim;
  float norm_eps;

  int32_t sink_tokens;
  int32_t recency_tokens;
  float full_weight;
  float residual_weight;
  // > 0: the first term is the KL over the blocks that the student itself would read at this share
  // of the visible ones (sinks and recency included), both sides renormalised: the second, sparse
  // stage.
  float sparse_fraction;
  float gradient_scale;  // multiplies every gradient: 1 / (queries of the optimiser step)

  SelectorTensors weights;
  SelectorTensors gradients;  // accumulated into
};

// Sums over the queries of one DistillArgs.
struct DistillStats {
  double loss = 0;
  double kl = 0;           // KL(p_t || p_s) over all tokens
  double residual_kl = 0;  // over the residual; 0 for queries that have none
  double recalled_mass =
      0;  // true mass of the blocks a budget of 10% would read, reserved included
  int64_t queries = 0;
};

struct AdamWArgs {
  int64_t count;
  float* weights;          // [count]
  const float* gradients;  // [count]
  float* first_moment;     // [count]
  float* second_moment;    // [count]
  float gradient_factor;   // from clipping: multiplies the gradients
  float learning_rate;
  float beta1;
  float beta2;
  float epsilon;
  float weight_decay;
  int64_t step;  // 1-based, for bias correction
};

}  // namespace spotd::kernels
