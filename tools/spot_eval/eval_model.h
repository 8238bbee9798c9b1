// The model under evaluation, with its instruments, and sequences decoded on it side by side.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/thread_pool.h"
#include "tools/common/loaded_model.h"
#include "tools/spot_eval/mass_probe.h"
#include "tools/spot_eval/policy_spec.h"
#include "tools/spot_eval/twilight_backend.h"

namespace spotd::eval {

// What one layer of a row read.
struct LayerReading {
  double mass = 0;  // sums over steps of ChoiceMass's fields
  double oracle = 0;
  double layer_oracle = 0;
  double believed = 0;
  double density = 0;  // of chosen / visible blocks
  std::vector<double> heads;
};

// One step and layer: what the chooser believed it covered, and what it did.
struct Belief {
  float believed;
  float mass;
};

// What a row read since it was made.
struct Reading {
  int64_t steps = 0;
  double blocks_attended = 0;
  double blocks_visible = 0;
  double bytes_read = 0;
  double bytes_dense = 0;
  double believed = 0;               // sum over steps of the mean over layers
  std::vector<LayerReading> layers;  // while probing
  std::vector<Belief> beliefs;       // while probing; a pair for each step and layer

  double density() const { return blocks_visible > 0 ? blocks_attended / blocks_visible : 1; }
  double bytes_share() const { return bytes_dense > 0 ? bytes_read / bytes_dense : 1; }
  double believed_mass() const { return steps > 0 ? believed / static_cast<double>(steps) : 1; }
};

// One sequence under one policy. `spec` must outlive it.
struct EvalRow {
  const PolicySpec* spec = nullptr;
  kvstore::BlockTable table;
  Reading reading;
  model::SelectionTrace* trace = nullptr;  // nullable: the blocks that the last step read
};

class EvalModel {
 public:
  // INVALID_ARGUMENT for a model without a tokenizer.
  static absl::StatusOr<std::unique_ptr<EvalModel>> Load(const tools::ModelOptions& options);

  tools::LoadedModel& loaded() { return *loaded_; }
  const model::ModelConfig& config() const { return loaded_->transformer().config(); }
  size_t vocab() const { return static_cast<size_t>(config().vocab); }
  ThreadPool& pool() { return *pool_; }
  void set_probing(bool probing) { probing_ = probing; }

  // Feeds tokens[i] to rows[i]. next[i]: the most likely token after it. When `logits` is not empty
  // ([rows, vocab]) the logits are written to it.
  absl::Status Step(std::span<EvalRow* const> rows, std::span<const int32_t> tokens,
                    std::span<int32_t> next, std::span<float> logits);

  // Gives the prefixes' keys an int4 form that Twilight's estimates read, in blocks of the copies
  // returned, which the caller keeps as long as it decodes. `prefixes` stay as they are.
  absl::StatusOr<std::vector<kvstore::BlockTable>> QuantiseKeys(
      std::span<kvstore::BlockTable* const> prefixes);

 private:
  EvalModel() = default;
  void Prepare(std::span<EvalRow* const> rows);
  void Record(std::span<EvalRow* const> rows, std::span<const model::DecodeResult> results);
  void RecordChoices(std::span<EvalRow* const> rows);
  void QuantiseLayer(int32_t layer, std::span<const std::pair<int32_t, int32_t>> blocks);

  std::unique_ptr<ThreadPool> pool_;  // outlives the probe in loaded_
  std::unique_ptr<tools::LoadedModel> loaded_;
  TwilightBackend* twilight_ = nullptr;  // both belong to loaded_
  MassProbe* probe_ = nullptr;
  bool probing_ = false;
  std::vector<size_t> step_order_;  // caller's rows in the order the step runs them
};

}  // namespace spotd::eval
