#include "runtime/model/sparsity_meter.h"

namespace spotd::model {

SparsityMeter::ChoiceSum SparsityMeter::SumChoices(const DecodePlan& plan,
                                                   const ChooserRange& range, int32_t row,
                                                   const StepResults& results) const {
  ChoiceSum sum;
  for (int32_t layer = 0; layer < layout_.layers; ++layer) {
    const size_t offset =
        plan.ChoiceOffset(layer, range.begin) +
        static_cast<size_t>(row - range.begin) * static_cast<size_t>(range.groups);
    for (int32_t group = 0; group < range.groups; ++group) {
      sum.blocks += results.counts[offset + static_cast<size_t>(group)];
      sum.mass += static_cast<double>(results.covered_mass[offset + static_cast<size_t>(group)]);
    }
  }
  return sum;
}

int64_t SparsityMeter::ScoringBytes(Chooser chooser, int64_t blocks, int64_t tokens) const {
  switch (chooser) {
    case Chooser::kDense:
    case Chooser::kWindow:
      return 0;
    case Chooser::kSelector:
      return tokens * static_cast<int64_t>(layout_.SelectorBlockBytes()) / layout_.block_tokens;
    case Chooser::kQuest:
      return blocks * static_cast<int64_t>(layout_.SummaryBlockBytes());
    case Chooser::kOracle:
    case Chooser::kHeadOracle:  // every key
      return tokens * static_cast<int64_t>(layout_.KvBlockBytes()) / (2 * layout_.block_tokens);
  }
  return 0;
}

RowSparsity SparsityMeter::Measure(const DecodePlan& plan, const ChooserRange& range, int32_t row,
                                   int32_t kv_len, const StepResults& results) const {
  const int64_t layers = layout_.layers;
  const int64_t block_tokens = layout_.block_tokens;
  const int64_t visible = (kv_len + block_tokens - 1) / block_tokens;
  const int64_t token_bytes = static_cast<int64_t>(layout_.KvBlockBytes()) / block_tokens;
  RowSparsity out;
  out.blocks_visible = layers * visible;
  out.bytes_dense = layers * kv_len * token_bytes;
  out.dense = range.chooser == Chooser::kDense;
  if (out.dense) {
    out.blocks_attended = out.blocks_visible;
    out.bytes_read = out.bytes_dense;
    out.selected_tokens = kv_len;
    return out;
  }
  const ChoiceSum sum = SumChoices(plan, range, row, results);
  const int64_t choices = layers * range.groups;
  // The newest block is always chosen, and it is the only one that may be partly filled.
  const int64_t tokens = sum.blocks * block_tokens - choices * (visible * block_tokens - kv_len);
  out.blocks_attended = (sum.blocks + range.groups / 2) / range.groups;
  out.bytes_read =
      tokens * token_bytes / range.groups + layers * ScoringBytes(range.chooser, visible, kv_len);
  out.covered_mass = static_cast<float>(sum.mass / static_cast<double>(choices));
  out.selected_tokens = static_cast<int32_t>((tokens + choices / 2) / choices);
  return out;
}

}  // namespace spotd::model
