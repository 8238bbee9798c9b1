// How one decode step is laid out: which rows run together, under which chooser, at which bucketed
// size.
//
// Made once per step on the host; every layer follows it. Rows are sorted by chooser, so that each
// chooser works on one contiguous range of the step's rows.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "runtime/model/policy.h"

namespace spotd::model {

// Who decides which blocks a row reads. Several policies may share one chooser: they differ in
// their BudgetRule.
enum class Chooser : uint8_t {
  kDense,       // nobody: all blocks
  kSelector,    // the distilled selector's scores
  kQuest,       // per-block bounds
  kWindow,      // sinks and recency; no scores
  kOracle,      // true attention mass, one choice for all heads
  kHeadOracle,  // true attention mass, one choice for each KV head
};
inline constexpr int kNumChoosers = 6;

struct ChooserRange {
  Chooser chooser = Chooser::kDense;
  int32_t begin = 0;   // first row of the step
  int32_t rows = 0;    // at least 1
  int32_t groups = 1;  // choices per row: 1, or kv_heads where each KV head has its own
};

// The chooser of a row whose cache holds `kv_len` tokens once the step's token is in it.
Chooser ChooserFor(const Policy& policy, int32_t kv_len);

// The number of block-table entries a step is sized for: `blocks` rounded up to one of four sizes
// per power of two, at least 16, so that a growing sequence meets few different steps.
int32_t BucketBlocks(int32_t blocks);

class DecodePlan {
 public:
  // Sized once for up to `max_rows` rows. `selector_groups`: choices of a row that the selector
  // makes, 1 or kv_heads.
  DecodePlan(int32_t max_rows, int32_t kv_heads, int32_t block_tokens, int32_t selector_groups = 1);

  // choosers and kv_lens: one per row, in the caller's order. `trace` keeps every layer's
  // selection.
  void Make(std::span<const Chooser> choosers, std::span<const int32_t> kv_lens, bool trace);

  int32_t rows() const { return static_cast<int32_t>(order_.size()); }
  // The caller's row that runs as row `i` of the step.
  int32_t caller_row(int32_t i) const { return order_[static_cast<size_t>(i)]; }
  std::span<const ChooserRange> ranges() const { return {ranges_.data(), num_ranges_}; }
  bool uses(Chooser chooser) const { return row_counts_[static_cast<size_t>(chooser)] != 0; }
  int32_t table_stride() const { return table_stride_; }                // blocks
  int32_t max_kv_len() const { return table_stride_ * block_tokens_; }  // upper bound, bucketed
  bool trace() const { return trace_; }
  int32_t kv_heads() const { return kv_heads_; }

  // The first element of row `begin`'s part of an array that holds kv_heads entries per row of each
  // layer: counts and masses, of which a range with fewer groups uses the front.
  size_t ChoiceOffset(int32_t layer, int32_t begin) const {
    return (static_cast<size_t>(layer) * order_.size() + static_cast<size_t>(begin)) *
           static_cast<size_t>(kv_heads_);
  }

  // Differs whenever the operations of a step or their arguments would differ.
  uint64_t Key() const;

 private:
  int32_t GroupsOf(Chooser chooser) const;

  int32_t kv_heads_;
  int32_t block_tokens_;
  int32_t selector_groups_;
  std::vector<int32_t> order_;
  std::array<ChooserRange, kNumChoosers> ranges_;
  std::array<int32_t, kNumChoosers> row_counts_ = {};
  size_t num_ranges_ = 0;
  int32_t table_stride_ = 0;
  bool trace_ = false;
};

// Mixes `value` into a key.
uint64_t MixKey(uint64_t key, uint64_t value);

}  // namespace spotd::model
