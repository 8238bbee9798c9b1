// The argument structs of selector training (kernels/distill.h): plain, so that CUDA translation
// units can include them. The conventions of args.h hold.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/args.h"

namespace spotd::kernels {

// One layer's selector parameters, or their gradients, in fp32. Owned by the caller.
struct SelectorTensors {
  float* q;       // [heads * dim, hidden]
  float* k;       // [dim, hidden]
  float* w;       // [groups, heads, hidden]
  float* k_norm;  // [dim]
};

// One layer of `sequences` sequences of the same length.
struct DistillArgs {
  int32_t sequences = 1;
  int32_t rows;  // tokens of each sequence
  int32_t hidden;
  const void* x;  // [sequences, rows, hidden] Act: the attention block's normalised input
  const void* q;  // [sequences, rows, q_heads, head_dim] Act: the model's queries after RoPE
  KvLayer layer;  // holds the sequences' K, after RoPE
  const int32_t* block_table;  // [sequences, table_stride]
  int32_t table_stride;        // >= ceil(rows / block_tokens)
  int32_t q_heads;
  float teacher_scale;  // 1 / sqrt(head_dim)
  // Within the residual, a head counts by its residual mass to this power; 0: the plain mean. The
  // mean's total residual mass stays.
  float teacher_power;
  // A group's residual term counts by its residual mass, summed over heads, to this power; 0:
  // groups count alike.
  float group_power = 0;

  int32_t num_queries;       // of each sequence
  const int32_t* queries;    // [sequences, num_queries] rows of the sequence, ascending
  const int32_t* positions;  // [sequences, rows] RoPE position of each row
  Rope rope;                 // the selector's own
  int32_t heads;
  int32_t groups = 1;  // 1 or layer.kv_heads
  int32_t dim;
  float norm_eps;
  // The student's keys are rounded as inference stores them in this format; gradients pass straight
  // through. kNone: as they are. `dim` must be a multiple of SelectorKeyGroup.
  SelectorKeyFormat key_rounding = SelectorKeyFormat::kNone;

  int32_t sink_tokens;
  int32_t recency_tokens;
  float full_weight;
  float residual_weight;
  // > 0: the first term is the KL over the blocks that the student itself would read at this share
  // of the visible ones (sinks and recency included), both sides renormalised: the second, sparse
  // stage.
  float sparse_fraction;
  // The density at which `recalled_mass` and `believed_mass` are measured.
  float recall_fraction;
  float gradient_scale;  // multiplies every gradient: 1 / (queries of the optimiser step)

  SelectorTensors weights;
  SelectorTensors gradients;  // accumulated into; q null: measure the loss only
};

// The most that training kernels take.
struct DistillLimits {
  int32_t q_heads = std::numeric_limits<int32_t>::max();  // of the model
  int32_t rows = std::numeric_limits<int32_t>::max();     // tokens of a sequence
};

// Sums over the queries of one DistillArgs of means over groups.
struct DistillStats {
  double loss = 0;
  double kl = 0;           // KL(p_t || p_s) over all tokens
  double residual_kl = 0;  // over the residual; 0 for queries that have none
  // True mass of the blocks that recall_fraction of the visible ones would read, reserved included,
  // and the mass that the student sees in them.
  double recalled_mass = 0;
  double believed_mass = 0;
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
