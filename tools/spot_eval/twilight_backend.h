// An emulation of Twilight (arXiv 2502.02770) in front of a backend, for evaluation only.
//
// Twilight lets a cheap method pick a generous superset of the cache, estimates the attention
// weights of the superset from 4-bit keys, and keeps the smallest part of it that holds a share p
// of the estimated weight. Here, for each KV head: Quest picks the superset; the weights come from
// int4 copies of the keys (QuantisedKeys); what is kept are whole blocks, with the sinks and the
// recent tokens always among them, as for every other policy. The original prunes single tokens.
// What it would read is counted: bounds of all blocks, int4 keys of the superset, K and V of what
// is kept. Its speed is not emulated.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/forwarding_backend.h"
#include "tools/spot_eval/block_masses.h"

namespace spotd::eval {

struct TwilightRule {
  float p;         // share of the estimated weight to keep
  float superset;  // share of the blocks that Quest hands over
};

class TwilightBackend : public kernels::ForwardingBackend {
 public:
  explicit TwilightBackend(std::unique_ptr<kernels::Backend> backend);

  // The rows of the next step that Quest scores, in their order in the step: those with a rule are
  // pruned, the others stay Quest's.
  void SetQuestRows(std::vector<std::optional<TwilightRule>> rows);
  // Physical block -> the block that holds its keys in int4 form, itself where there is none. Must
  // cover every block of the store; empty: exact keys.
  void SetQuantisedBlocks(std::vector<int32_t> instead_of) { instead_of_ = std::move(instead_of); }
  // Blocks handed over by Quest in the last step: one figure a Quest row, summed over layers and KV
  // heads.
  std::span<const int64_t> superset_blocks() const { return superset_blocks_; }

  void QuestScore(const kernels::QuestScoreArgs& args) override;
  void Select(const kernels::SelectArgs& args) override;
  void RunStep(uint64_t key, const std::function<void()>& issue) override;
  absl::Status Synchronize() override;

 private:
  absl::Status Prune(const kernels::SelectArgs& args);
  // Leaves the superset in args.selected and args.counts, on the backend.
  absl::Status ChooseSuperset(const kernels::SelectArgs& args,
                              std::span<const kernels::BudgetRule> rules);
  // The estimated masses of pruned rows, nothing outside their superset; Quest's of the others.
  absl::Status Estimate(const kernels::SelectArgs& args, std::vector<float>* masses);

  BlockMasses reader_;
  std::vector<std::optional<TwilightRule>> rows_;
  std::vector<int64_t> superset_blocks_;
  std::vector<int32_t> instead_of_;
  bool active_ = false;  // some row has a rule
  std::optional<kernels::QuestScoreArgs> scored_;
  kernels::Buffer rules_;
  kernels::Buffer masses_;
  absl::Status failure_;  // the first failure; Synchronize reports it
};

}  // namespace spotd::eval
