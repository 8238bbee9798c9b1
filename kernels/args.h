// The argument structs of the kernel interface (kernels/backend.h): plain pointers and integers, so
// that a CUDA translation unit can include this file alone (the two headers of core/ are
// host/device arithmetic).
//
// Conventions for every pointer below:
//  - it points into memory of the backend that runs the operation (host memory for `ref` and
//  `cpu`);
//  - it is owned by the caller and must stay valid until the operation has completed;
//  - it is not null unless marked "nullable";
//  - shapes are row-major and given in brackets, e.g. [rows, hidden].
// `Act` marks the backend's activation type (float for `ref` and `cpu`; see
// Backend::activation_bytes()). The residual stream is float on every backend: Embed's output,
// RmsNorm's input, and what Linear accumulates into.
//
// Vocabulary: a *row* is one token of one step. A *block* is `block_tokens` consecutive tokens of
// one sequence's KV. A block table maps block index within a sequence -> physical block in the
// pool.
#pragma once

#include <cstdint>

#include "kernels/core/budget_rule.h"   // BudgetRule
#include "kernels/core/selector_key.h"  // SelectorKeyFormat

namespace spotd::kernels {

class Weight;

// ---------------------------------------------------------------------------------------------------------------
// Where a step's tokens live.

// One layer's part of the paged cache. Block b of an array starts at base + b * (its block size in
// bytes).
struct KvLayer {
  void* kv;       // [num_blocks, 2 (K then V), kv_heads, block_tokens, head_dim] bf16
  void* summary;  // nullable. [num_blocks, kv_heads, 2 (min then max), head_dim] bf16: elementwise
                  // bounds of K
  // nullable. [num_blocks, block_tokens * selector key bytes]; the order of bytes within a block is
  // the backend's own. Codes and scales are those of kernels/core/selector_key.h.
  void* selector_keys;
  int32_t num_blocks;  // physical blocks in the pool, for bounds checks
  int32_t block_tokens;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t selector_dim;  // d_s; 0 without a selector
  SelectorKeyFormat selector_format;
};

// The sequences of one step. Sequence s owns rows [row_start[s], row_start[s + 1]), which are its
// newest tokens: with n = kv_len[s] and m its number of rows, row row_start[s] + i is the token at
// index n - m + i of the sequence. A decode step has one row per sequence: operations marked
// "decode only" take row s to be sequence s and do not read row_start, so a caller may hand them
// any contiguous range of the rows by offsetting the pointers.
struct SequenceBatch {
  int32_t num_seqs;
  int32_t num_rows;
  int32_t max_kv_len;           // the largest kv_len, on the host, for sizing work
  const int32_t* block_tables;  // [num_seqs, table_stride] physical block ids
  int32_t table_stride;         // >= ceil(max_kv_len / block_tokens)
  const int32_t* kv_len;        // [num_seqs] tokens in the cache once this step's rows are appended
  const int32_t* row_start;     // [num_seqs + 1]
};

// Rotary embedding in the rotate-half convention: dims (i, i + rotary_dim / 2) form a pair, turned
// by position * inv_freq[i]; cos and sin are multiplied by `magnitude` (YaRN's attention factor, 1
// otherwise). Dims from rotary_dim on pass through.
struct Rope {
  const float* inv_freq;  // [rotary_dim / 2]
  int32_t rotary_dim;
  float magnitude;
};

// ---------------------------------------------------------------------------------------------------------------
// Dense operations.

struct EmbedArgs {
  const Weight* table;    // [vocab, hidden]
  const int32_t* tokens;  // [rows], each in [0, vocab)
  int32_t rows;
  float* out;  // [rows, hidden]
};

// out = x / sqrt(mean(x^2) + eps) * weight
struct RmsNormArgs {
  const float* x;       // [rows, dim]
  const float* weight;  // [dim]
  int32_t rows;
  int32_t dim;
  float eps;
  void* out;  // [rows, dim] Act; may equal x where Act is float
};

inline constexpr int kMaxLinearOutputs = 8;

// One output of a Linear: y = x W^T (+ bias), or y += x W^T (+ bias).
struct LinearOutput {
  const Weight* weight;  // [out_dim, in_dim]
  const float* bias;     // nullable. [out_dim]
  void*
      y;  // [rows, out_dim] Act; float when accumulating and where Linear is called through Logits
  bool accumulate;
};

// Several projections of the same input, so that a backend reads (and quantises) x once.
// A row's result does not depend on how many other rows there are, for rows <= kMaxInvariantRows.
struct LinearArgs {
  const void* x;  // [rows, in_dim] Act
  int32_t rows;
  int32_t in_dim;
  int32_t num_outputs;
  LinearOutput outputs[kMaxLinearOutputs];
};

// Up to this many rows, Linear's arithmetic for a row is the same whatever the number of rows: the
// property that makes a request's tokens independent of its neighbours in a decode batch.
inline constexpr int kMaxInvariantRows = 256;

// out = silu(gate) * up
struct SwiGluArgs {
  const void* gate;  // [rows, dim] Act
  const void* up;    // [rows, dim] Act
  int32_t rows;
  int32_t dim;
  void* out;  // [rows, dim] Act; may equal gate or up
};

// ---------------------------------------------------------------------------------------------------------------
// Appending to the cache.

// QK-norm (where the model has it), RoPE, then K and V written to their blocks as bf16; q is left
// in place for the attention that follows. Where layer.summary is set, the min/max of every block
// touched is recomputed from all its tokens, so that the result does not depend on how the tokens
// arrived (rewind, chunking).
struct AppendKvArgs {
  SequenceBatch batch;
  KvLayer layer;
  Rope rope;
  const int32_t* positions;  // [rows] RoPE position of each row
  int32_t q_heads;
  void* q;              // in/out [rows, q_heads, head_dim] Act
  void* k;              // in/out [rows, kv_heads, head_dim] Act; clobbered
  const void* v;        // [rows, kv_heads, head_dim] Act
  const float* q_norm;  // nullable. [head_dim]
  const float* k_norm;  // nullable. [head_dim]
  float eps;
};

// k_s = RoPE(RMSNorm(k)) quantised to layer.selector_format and written to its block; q_s = RoPE(q)
// in place.
struct AppendSelectorArgs {
  SequenceBatch batch;
  KvLayer layer;
  Rope rope;
  const int32_t* positions;  // [rows]
  int32_t heads;             // H_s
  void* q;                   // nullable (prefill needs no queries). in/out [rows, H_s, d_s] Act
  void* k;                   // in/out [rows, d_s] Act; clobbered
  const float* k_norm;       // [d_s]
  float eps;
};

// ---------------------------------------------------------------------------------------------------------------
// Choosing blocks. Decode only: every batch below has one row per sequence.
//
// A *chooser* makes one choice per (row, group). groups = 1: all heads share the choice. groups =
// kv_heads: each KV head chooses for its GQA group (Quest always; a distilled selector and the
// oracle may do either). Scores are natural-log masses up to a constant per (row, group):
// block_lse[row, group, b] = log sum exp of the token scores of block b. Entries at or beyond the
// row's block count are not written.

// The distilled selector (DESIGN 2): score_g(j) = sum_h w[g, h] * relu(q[h] . k_s[j]) / sqrt(d_s).
// Groups share queries and keys and differ in how they mix them.
struct SelectorScoreArgs {
  SequenceBatch batch;
  KvLayer layer;
  int32_t heads;     // H_s
  const void* q;     // [rows, H_s, d_s] Act
  const void* w;     // [rows, groups, H_s] Act
  float* block_lse;  // [rows, groups, lse_stride]
  int32_t lse_stride;
  int32_t groups = 1;  // 1 or kv_heads
};

// Quest (arXiv 2406.10774): an upper bound on q . k over a block, sum_i max(q_i min_i, q_i max_i),
// per query head. The group's score of a block is log( mean over its heads h of
// softmax_b(bound_h)[b] ).
struct QuestScoreArgs {
  SequenceBatch batch;
  KvLayer layer;
  int32_t q_heads;
  float scale;       // multiplies q . k, normally 1 / sqrt(head_dim)
  const void* q;     // [rows, q_heads, head_dim] Act, after RoPE
  float* block_lse;  // [rows, kv_heads, lse_stride]
  int32_t lse_stride;
};

// The true attention mass of each block, averaged over the query heads of the choice: log( mean_h
// sum_{j in b} p_h[j] ).
struct OracleScoreArgs {
  SequenceBatch batch;
  KvLayer layer;
  int32_t q_heads;
  float scale;
  const void* q;     // [rows, q_heads, head_dim] Act, after RoPE
  float* block_lse;  // [rows, groups, lse_stride]
  int32_t lse_stride;
  int32_t groups = 1;  // 1 or kv_heads
};

struct SelectArgs {
  SequenceBatch batch;
  int32_t block_tokens;
  int32_t groups;
  const BudgetRule* rules;  // [rows]
  const float* block_lse;   // nullable when every rule is kReservedOnly. [rows, groups, lse_stride]
  int32_t lse_stride;
  int32_t*
      selected;  // [rows, groups, selected_stride] block indices within the sequence, ascending
  int32_t selected_stride;  // >= the row's block count
  int32_t* counts;          // [rows, groups]
  float* covered_mass;  // [rows, groups] mass of the chosen blocks as the scores see it, in [0, 1];
                        // 1 without scores
};

// ---------------------------------------------------------------------------------------------------------------
// Attention. out[h] = softmax(scale * q[h] . K) V over the visible tokens of the chosen blocks.

// Decode: one row per sequence.
struct AttendArgs {
  SequenceBatch batch;
  KvLayer layer;
  int32_t q_heads;
  float scale;
  const void* q;            // [rows, q_heads, head_dim] Act, after RoPE
  const int32_t* selected;  // nullable: all blocks (dense). [rows, groups, selected_stride]
  const int32_t* counts;    // [rows, groups] when selected is set
  int32_t groups;           // 1 or kv_heads
  int32_t selected_stride;
  void* out;   // [rows, q_heads, head_dim] Act
  float* lse;  // nullable. [rows, q_heads] natural-log sum exp of the scaled scores
};

// Prefill: each row attends to every token of its sequence up to and including itself.
struct PrefillAttendArgs {
  SequenceBatch batch;
  KvLayer layer;
  int32_t q_heads;
  float scale;
  const void* q;  // [rows, q_heads, head_dim] Act, after RoPE
  void* out;      // [rows, q_heads, head_dim] Act
  float* lse;     // nullable. [rows, q_heads]
  // Queries and attention weights stay in fp32 where a host would round them to bf16 for speed:
  // for models whose weights are fp32 themselves. Devices with bf16 activations ignore it.
  bool full_precision = false;
};

// ---------------------------------------------------------------------------------------------------------------
// Sampling.

// Per-row sampling parameters, already validated. In this order:
//  1. logit += bias; then, for seen tokens, the repetition penalty; then, for generated tokens,
//  presence + frequency.
//     A NaN logit counts as -infinity.
//  2. temperature == 0: the highest logit, ties to the lower id; nothing below applies.
//  3. top-k keeps the k highest logits, ties to the lower id.
//  4. p = softmax(logit / temperature) over what is left. top-p keeps the shortest run of tokens,
//  by descending p and
//     then ascending id, whose sum reaches top_p. min-p then drops tokens with p < min_p * the
//     largest p.
//  5. Draw: with u = PhiloxUniform(seed, draw), the first token in ascending id at which the
//  running sum of the kept p
//     exceeds u * their total.
// Where no logit is finite, the token is the first of the order of step 3.
struct SamplingParams {
  float temperature;         // >= 0
  float top_p;               // (0, 1], 1 = off
  float min_p;               // [0, 1], 0 = off
  float repetition_penalty;  // > 0, 1 = off; divides positive logits of seen tokens, multiplies
                             // negative ones
  float presence_penalty;    // subtracted once from the logit of a generated token
  float frequency_penalty;   // subtracted per occurrence in the generated text
  int32_t top_k;             // 0 = off
  uint64_t seed;
  uint64_t draw;  // index of this draw within the request: (seed, draw) fixes the random number
                  // (kernels/core/philox.h)
};

// A token whose logit is adjusted: how often it was seen and generated so far, and an additive
// bias.
struct TokenAdjustment {
  int32_t token;
  int32_t seen;       // occurrences in prompt and output (repetition penalty applies when > 0)
  int32_t generated;  // occurrences in the output (presence and frequency penalties)
  float bias;
};

struct SampleArgs {
  float* logits;  // in/out [rows, vocab]; clobbered
  int32_t rows;
  int32_t vocab;
  const SamplingParams* params;  // [rows]
  const TokenAdjustment*
      adjustments;  // nullable when adjustment_start is all zero. distinct tokens per row
  const int32_t* adjustment_start;  // [rows + 1] into adjustments
  int32_t* tokens;                  // out [rows]
  float* logprobs;  // out [rows] log softmax of the unmodified logits at the chosen token
};

}  // namespace spotd::kernels
