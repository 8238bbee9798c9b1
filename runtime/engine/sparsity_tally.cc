#include "runtime/engine/sparsity_tally.h"

#include <algorithm>

#include "kernels/core/budget_rule.h"

namespace spotd::engine {
namespace {

// What was said last is read for nearly every token, whatever it is about.
constexpr int32_t kNearTokens = 256;
constexpr int32_t kNearShare = 8;  // of a short context: one in so many tokens

int32_t FirstNearBlock(int32_t context, int32_t block_tokens) {
  return (context - std::min(kNearTokens, context / kNearShare)) / block_tokens;
}

}  // namespace

SparsityTally::SparsityTally(const model::Policy& policy, int32_t block_tokens,
                             int32_t report_blocks, bool traced)
    : rule_(policy.Rule()),
      block_tokens_(block_tokens),
      report_blocks_(report_blocks),
      traced_(traced) {}

void SparsityTally::Add(const model::RowSparsity& step, int32_t context) {
  ++total_.steps;
  total_.sum.blocks_attended += step.blocks_attended;
  total_.sum.blocks_visible += step.blocks_visible;
  total_.sum.bytes_read += step.bytes_read;
  total_.sum.bytes_dense += step.bytes_dense;
  if (step.dense) {
    ++total_.dense_steps;
    return;
  }
  covered_mass_ += step.covered_mass;
  selected_tokens_ += step.selected_tokens;
  if (report_blocks_ > 0) CountBlocks(context);
}

void SparsityTally::CountBlocks(int32_t context) {
  // Reserved blocks are read whatever the question: they tell nothing.
  const kernels::BudgetPlan plan = kernels::PlanReserved(rule_, context, block_tokens_);
  const int32_t end = std::min(plan.recent_begin, FirstNearBlock(context, block_tokens_));
  if (reads_.size() < static_cast<size_t>(plan.blocks)) reads_.resize(plan.blocks, 0);
  for (const std::vector<int32_t>& layer : trace_.blocks) {
    ++layer_steps_;
    for (const int32_t block : layer) {
      if (block >= plan.sink_blocks && block < end) ++reads_[block];
    }
  }
}

void SparsityTally::AddAudit(double recalled_mass, double output_error) {
  ++total_.audited_steps;
  recalled_mass_ += recalled_mass;
  output_error_ += output_error;
}

RequestSparsity SparsityTally::Result() const {
  RequestSparsity result = total_;
  const int32_t sparse_steps = total_.steps - total_.dense_steps;
  result.sum.dense = sparse_steps == 0;
  if (sparse_steps > 0) {
    result.mean_covered_mass = covered_mass_ / sparse_steps;
    result.mean_selected_tokens = selected_tokens_ / sparse_steps;
  }
  if (total_.audited_steps > 0) {
    result.mean_recalled_mass = recalled_mass_ / total_.audited_steps;
    result.mean_output_error = output_error_ / total_.audited_steps;
  }
  result.sum.covered_mass = static_cast<float>(result.mean_covered_mass);
  result.sum.selected_tokens = static_cast<int32_t>(result.mean_selected_tokens + 0.5);
  result.top_blocks = TopBlocks();
  return result;
}

std::vector<std::pair<int32_t, float>> SparsityTally::TopBlocks() const {
  std::vector<int32_t> blocks;
  for (int32_t block = 0; block < static_cast<int32_t>(reads_.size()); ++block) {
    if (reads_[block] > 0) blocks.push_back(block);
  }
  std::sort(blocks.begin(), blocks.end(), [this](int32_t a, int32_t b) {
    return reads_[a] != reads_[b] ? reads_[a] > reads_[b] : a < b;
  });
  blocks.resize(std::min<size_t>(blocks.size(), report_blocks_));
  std::vector<std::pair<int32_t, float>> top;
  for (const int32_t block : blocks) {
    top.emplace_back(block, static_cast<float>(reads_[block]) / static_cast<float>(layer_steps_));
  }
  return top;
}

}  // namespace spotd::engine
