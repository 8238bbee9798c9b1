// Distils a selector: runs the frozen model over text and fits the selector's weights to its
// attention (DESIGN 3).
//
// Thread-safety: one thread. The backbone runs on any backend; the gradients run where
// kernels/distill.h has kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/distill.h"
#include "kvstore/kv_store.h"
#include "runtime/distill/corpus.h"
#include "runtime/distill/schedule.h"
#include "runtime/model/policy.h"
#include "runtime/model/selector.h"
#include "runtime/model/transformer.h"

namespace spotd::distill {

struct TrainerOptions {
  model::SelectorConfig selector;
  int32_t length = 1024;  // tokens of a sequence
  int32_t sequences_per_step = 16;
  int64_t tokens = 20'000'000;  // in all: fixes the number of steps
  int32_t queries = 128;        // rows of a sequence that enter the loss
  LearningRate learning_rate;   // `steps` is filled from `tokens`
  // Matrices start, and learn, by this over the root mean square of their layer's inputs, so that
  // one learning rate fits every model: the inputs of SmolLM2, whose rates the defaults are. 0: one
  // scale for all.
  float input_rms = 0.33f;
  double clip_norm = 1.0;
  float full_weight = 1.0f;
  float residual_weight = 1.0f;
  float teacher_power = 1.0f;  // see kernels/distill.h
  float group_power = 2.0f;    // likewise
  double sparse_stage = 0.0;   // share of the steps, at the end, that train on the sparse loss
  float sparse_fraction = 0.10f;
  double rounding_stage = 0.0;  // share of the last steps that see the keys as they are stored
  kernels::SelectorKeyFormat rounded_keys = kernels::SelectorKeyFormat::kInt4;
  int32_t sink_tokens = model::Policy{}.sink_tokens;
  int32_t recency_tokens = model::Policy{}.recency_tokens;
  PositionSkip skip;
  uint64_t seed = 1;
};

struct StepReport {
  int64_t step = 0;    // steps done
  int64_t steps = 0;   // in all
  int64_t tokens = 0;  // seen so far
  double loss = 0;     // means over queries and layers of this step
  double kl = 0;
  double residual_kl = 0;
  double recalled_mass = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
};

class Trainer {
 public:
  // The transformer and its store must outlive the trainer. As many sequences of `length` tokens
  // run in one pass as the transformer's limits allow; the store must hold them. INVALID_ARGUMENT
  // names the option of spot-distill that is out of range, or what of the model the kernels cannot
  // take.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(
      kernels::Backend* backend, model::Transformer* transformer, kvstore::KvStore* store,
      const Corpus* corpus, std::unique_ptr<kernels::DistillKernels> kernels,
      const TrainerOptions& options);
  ~Trainer();

  int64_t steps() const;      // in all
  int64_t next_step() const;  // 0-based
  bool done() const { return next_step() >= steps(); }

  // One optimiser step. INTERNAL, weights unchanged, when the loss is not a number.
  absl::StatusOr<StepReport> Step();
  // Loss figures on up to `sequences` held-out sequences; weights unchanged.
  absl::StatusOr<StepReport> Evaluate(int64_t sequences);

  // Weights, moments and position, exactly: resuming continues bit for bit.
  absl::Status SaveCheckpoint(const std::string& path) const;
  // FAILED_PRECONDITION when the checkpoint was made with other options, naming the one that
  // differs.
  absl::Status LoadCheckpoint(const std::string& path);
  // The selector file that `spotd --selector` reads, in bf16.
  absl::Status SaveSelector(const std::string& path) const;

 private:
  struct Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spotd::distill
