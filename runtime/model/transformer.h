// A frozen pretrained transformer on one backend: weights, activations, and the two forward passes
// a server needs.
//
// Prefill runs a chunk of one sequence densely and fills both caches. Decode advances a batch of
// sequences by one token each, reading the blocks that each sequence's policy chooses. The pass
// reads top to bottom like DESIGN 2.
//
// Thread-safety: one thread (the engine's). Steady decode allocates nothing: buffers are sized by
// Limits at Load.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/backend.h"
#include "kvstore/kv_store.h"
#include "runtime/model/layer_observer.h"
#include "runtime/model/model_config.h"
#include "runtime/model/model_source.h"
#include "runtime/model/policy.h"
#include "runtime/model/selector.h"

namespace spotd::model {

struct Limits {
  int32_t max_batch = 64;           // sequences in a decode step, <= kernels::kMaxInvariantRows
  int32_t max_prefill_chunk = 512;  // tokens in a prefill chunk
  int32_t max_context = 0;          // tokens of a sequence; 0 = the checkpoint's context length
  int32_t block_tokens = 16;        // as the KV layout's: sizes the selection lists
};

// What one row's decode step read, summed over layers.
struct RowSparsity {
  int64_t blocks_attended =
      0;  // (block, KV head) pairs are counted as 1 / kv_heads blocks where groups choose apart
  int64_t blocks_visible = 0;
  int64_t bytes_read = 0;       // KV plus selector keys or summaries
  int64_t bytes_dense = 0;      // KV a dense step would have read
  float covered_mass = 1.0f;    // mean over layers, as the policy itself estimates it; 1 when dense
  int32_t selected_tokens = 0;  // mean over layers
  bool dense = true;            // no layer chose
};

// Optional per-layer record of the blocks a row read, for `last blocks` reports and tests.
struct SelectionTrace {
  std::vector<std::vector<int32_t>> blocks;  // [layers] ascending block indices, union over groups
};

struct DecodeRow {
  int32_t token = 0;  // the newest token: appended by this step
  kvstore::BlockTable* table =
      nullptr;  // room for one token reserved; committed by the caller afterwards
  Policy policy;
  // Evaluation only: the rule of each layer, instead of the policy's. Empty or [layers].
  std::span<const kernels::BudgetRule> layer_rules = {};
  kernels::SamplingParams sampling;
  std::span<const kernels::TokenAdjustment> adjustments;
  SelectionTrace* trace = nullptr;  // nullable
};

struct DecodeResult {
  int32_t token = 0;
  float logprob = 0;
  RowSparsity sparsity;
};

struct PrefillChunk {
  std::span<const int32_t> tokens;  // 1..max_prefill_chunk
  kvstore::BlockTable* table =
      nullptr;  // room for them reserved; committed by the caller afterwards
  // Training only. RoPE positions instead of the tokens' places; empty or [tokens.size()].
  std::span<const int32_t> positions = {};
  LayerObserver* observer = nullptr;  // nullable
};

class Transformer {
 public:
  // Packs the checkpoint's weights onto the backend. `selector` may be null. Errors name file,
  // tensor and reason.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(kernels::Backend* backend,
                                                           const ModelSource& source,
                                                           std::unique_ptr<SelectorSource> selector,
                                                           const Limits& limits);
  ~Transformer();

  // The layout KvStore::Create needs for this model. `format` is ignored without a selector.
  kvstore::KvLayout KvLayoutFor(kernels::SelectorKeyFormat format) const;
  // The store that block tables given to Prefill and Decode belong to. Called once before them.
  void AttachStore(kvstore::KvStore* store);

  // Runs the chunk. When `logits` is not empty ([vocab]) the last token's logits are written to it,
  // on the host.
  absl::Status Prefill(const PrefillChunk& chunk, std::span<float> logits);
  // One chunk of each of several sequences in one pass, without logits: training. At most max_batch
  // chunks with max_prefill_chunk tokens in all. The first chunk's observer sees all of them.
  absl::Status PrefillMany(std::span<const PrefillChunk> chunks);
  // As Prefill for all positions ([tokens, vocab]): tests and evaluation.
  absl::Status PrefillAllLogits(const PrefillChunk& chunk, std::span<float> logits);

  // One token for each row: rows.size() in 1..max_batch, results.size() == rows.size(). When
  // `logits` is not empty
  // ([rows, vocab]) the unmodified logits are written to it (evaluation; costs a download).
  absl::Status Decode(std::span<const DecodeRow> rows, std::span<DecodeResult> results,
                      std::span<float> logits = {});
  // The row, in the caller's order, that ran as row `i` of the latest decode step.
  int32_t StepRow(int32_t i) const;

  const ModelConfig& config() const;
  bool has_selector() const;
  const Limits& limits() const;
  size_t weight_bytes() const;      // backend memory held by weights
  size_t activation_bytes() const;  // backend memory held by step buffers
  // Weight bytes a decode step reads (tied embeddings counted once; the embedding lookup not at
  // all).
  size_t decode_weight_bytes() const;

 private:
  struct Impl;
  explicit Transformer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spotd::model
