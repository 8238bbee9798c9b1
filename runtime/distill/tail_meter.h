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

// Means over tokens and documents.
struct TailFigures {
  double kl = 0;       // to the dense next-token distribution
  double density = 0;  // blocks read / blocks visible
};

struct TailOptions {
  int32_t context = 8192;  // tokens of each document that are used
  int32_t tail = 64;       // of these, the last, decoded under each rule
};

class TailMeter {
 public:
  // The transformer has a selector and decodes up to max_batch rows; the store holds a prefix and
  // max_batch tails. `documents` have at least `context` tokens each. All must outlive the meter.
  TailMeter(model::Transformer* transformer, kvstore::KvStore* store,
            std::vector<std::span<const int32_t>> documents, const TailOptions& options,
            int threads);

  // Figures of each variant.
  absl::StatusOr<std::vector<TailFigures>> Measure(std::span<const Variant> variants);

 private:
  absl::Status Prefill(std::span<const int32_t> tokens, kvstore::BlockTable* table);
  // Decodes one document's tail under dense and `variants`; adds to `sums`.
  absl::Status MeasureTail(const kvstore::BlockTable& prefix, std::span<const int32_t> tail,
                           std::span<const Variant> variants, std::span<TailFigures> sums);

  model::Transformer* transformer_;
  kvstore::KvStore* store_;
  std::vector<std::span<const int32_t>> documents_;
  TailOptions options_;
  ThreadPool pool_;
  std::vector<float> logits_;  // [rows, vocab]
};

}  // namespace spotd::distill
