// How far decoding under a rule strays from dense decoding: the tails of long documents are decoded
// under many rules at once, each a row of one batch, over one shared prefix.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/core/thread_pool.h"
#include "kvstore/kv_store.h"
#include "runtime/model/policy.h"
#include "runtime/model/transformer.h"

namespace spotd::distill {

// One rule for each layer, under the scores of the selector or, for comparison, of the oracle.
struct Variant {
  model::PolicyKind chooser = model::PolicyKind::kDistilled;  // kDistilled, kQuest or kOracle
  std::vector<kernels::BudgetRule> rules;                     // [layers]
};

// A text whose last tokens are decoded under each rule.
struct TailDocument {
  std::span<const int32_t> tokens;
  // 0: plain text, every prediction counts. Else the text ends with an answer of as many tokens,
  // and the predictions of these and of what follows count, apart from those of plain text.
  int32_t answer_tokens = 0;
};

// Means over tokens and documents.
struct TailFigures {
  double kl = 0;         // to the dense next-token distribution, on plain text
  double density = 0;    // blocks read / blocks visible, on plain text
  double answer_kl = 0;  // like kl, on answers; 0 without any
};

class TailMeter {
 public:
  // The transformer has a selector and decodes up to max_batch rows; the store holds a prefix and
  // max_batch tails. `tail` tokens are decoded of each document, which has more, and more in its
  // tail than its answer. All must outlive the meter.
  TailMeter(model::Transformer* transformer, kvstore::KvStore* store,
            std::vector<TailDocument> documents, int32_t tail, int threads);

  // Figures of each variant.
  absl::StatusOr<std::vector<TailFigures>> Measure(std::span<const Variant> variants);

 private:
  absl::Status Prefill(std::span<const int32_t> tokens, kvstore::BlockTable* table);
  // Decodes one document's tail under dense and `variants`; adds to `sums`.
  absl::Status MeasureTail(const kvstore::BlockTable& prefix, const TailDocument& document,
                           std::span<const Variant> variants, std::span<TailFigures> sums);

  model::Transformer* transformer_;
  kvstore::KvStore* store_;
  std::vector<TailDocument> documents_;
  size_t tail_;
  ThreadPool pool_;
  std::vector<float> logits_;  // [rows, vocab]
};

}  // namespace spotd::distill
