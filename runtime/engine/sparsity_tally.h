// What the decode steps of one request read, summed as they happen. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/request.h"
#include "runtime/model/policy.h"
#include "runtime/model/transformer.h"

namespace spotd::engine {

class SparsityTally {
 public:
  // `report_blocks` > 0 keeps a count for each block of the context. `traced`: the caller wants
  // each step's selection itself.
  SparsityTally(const model::Policy& policy, int32_t block_tokens, int32_t report_blocks,
                bool traced = false);

  // Where the next step's selection should be recorded; null when nobody asked.
  model::SelectionTrace* trace() { return report_blocks_ > 0 || traced_ ? &trace_ : nullptr; }
  // A step over `context` tokens; trace() holds its selection.
  void Add(const model::RowSparsity& step, int32_t context);
  void AddAudit(double recalled_mass, double output_error);
  RequestSparsity Result() const;

 private:
  void CountBlocks(int32_t context);
  std::vector<std::pair<int32_t, float>> TopBlocks() const;

  kernels::BudgetRule rule_;
  int32_t block_tokens_;
  int32_t report_blocks_;
  bool traced_;
  RequestSparsity total_;
  double covered_mass_ = 0;     // summed over sparse steps
  double selected_tokens_ = 0;  // summed over sparse steps
  double recalled_mass_ = 0;    // summed over audits, as is the next
  double output_error_ = 0;
  model::SelectionTrace trace_;
  std::vector<int64_t> reads_;  // by block: (step, layer) pairs that read it
  int64_t layer_steps_ = 0;     // (step, layer) pairs of sparse steps
};

}  // namespace spotd::engine
