// Looks over a decode step's shoulder: what true attention mass did the blocks of each layer hold,
// what would the oracle's as many have held, and what did the chooser believe?
//
// Sits in front of a backend. Off, it costs nothing; on, steps run operation by operation and every
// layer is scored densely besides, so its timings mean nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/thread_pool.h"
#include "kernels/forwarding_backend.h"
#include "tools/spot_eval/block_masses.h"

namespace spotd::eval {

// One layer's choice for one row; means over the KV heads that choose apart.
struct ChoiceMass {
  double chosen_blocks = 0;
  double visible_blocks = 0;
  double mass = 1;    // true mass of the chosen blocks, mean over query heads
  double oracle = 1;  // the most that as many blocks could hold, chosen with the same freedom
  // The most that one choice for all heads could hold, of as many blocks.
  double layer_oracle = 1;
  double believed = 1;
  std::vector<float> heads;  // mass by KV head: what a mean may hide
};

class MassProbe : public kernels::ForwardingBackend {
 public:
  // `pool` must outlive the probe.
  MassProbe(std::unique_ptr<kernels::Backend> backend, ThreadPool* pool);

  struct Row {
    int32_t kv_len;
    kernels::BudgetRule rule;  // says which blocks are reserved
  };
  // Watches the next step, whose rows are these, in the step's order.
  void WatchStep(std::vector<Row> rows);
  // [layers, rows] of the step watched last.
  std::span<const ChoiceMass> choices() const { return choices_; }

  void AppendKv(const kernels::AppendKvArgs& args) override;
  void Append(const kernels::AppendKvArgs& kv, const kernels::AppendSelectorArgs& keys) override {
    AppendKv(kv);
    AppendSelector(keys);
  }
  void Select(const kernels::SelectArgs& args) override;
  void Attend(const kernels::AttendArgs& args) override;
  void RunStep(uint64_t key, const std::function<void()>& issue) override;
  absl::Status Synchronize() override;

 private:
  // A range of rows that chose, as the backend left it.
  struct Lists {
    std::vector<float> masses;  // [rows, kv_heads, stride]
    std::vector<int32_t> selected;
    std::vector<int32_t> counts;
    std::vector<float> believed;
    size_t heads;            // KV heads
    size_t groups;           // that choose apart: 1, or one a head
    size_t stride;           // of masses
    size_t selected_stride;  // of selected
  };
  absl::Status Read(const kernels::AttendArgs& args, Lists* lists);
  // Of a row: masses [stride], the mean of KV heads [first, first + heads).
  static std::vector<float> MeanMasses(const Lists& lists, size_t row_of_range, size_t first,
                                       size_t heads);
  ChoiceMass Judge(const Lists& lists, size_t row_of_range, const Row& row,
                   int32_t block_tokens) const;

  BlockMasses reader_;
  ThreadPool* pool_;
  bool watching_ = false;
  std::vector<Row> rows_;
  size_t next_row_ = 0;  // of the layer that runs
  const float* believed_ = nullptr;
  std::vector<ChoiceMass> choices_;
  absl::Status failure_;  // the first failure; Synchronize reports it
};

// The largest share of the masses that `blocks` blocks can hold, those that `rule` reserves at
// kv_len tokens among them. masses: one for each visible block.
double BestMass(std::span<const float> masses, int32_t blocks, const kernels::BudgetRule& rule,
                int32_t kv_len, int32_t block_tokens);

}  // namespace spotd::eval
