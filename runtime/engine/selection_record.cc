#include "runtime/engine/selection_record.h"

#include <span>
#include <utility>

namespace spotd::engine {
namespace {

std::vector<BlockRun> Runs(std::span<const int32_t> blocks) {
  std::vector<BlockRun> runs;
  for (const int32_t block : blocks) {
    if (!runs.empty() && runs.back().first + runs.back().count == block) {
      ++runs.back().count;
    } else {
      runs.push_back({block, 1});
    }
  }
  runs.shrink_to_fit();
  return runs;
}

int64_t BytesOf(const SelectionRecord::Step& step) {
  int64_t bytes = sizeof(step);
  for (const std::vector<BlockRun>& runs : step.layers) {
    bytes += static_cast<int64_t>(sizeof(runs) + runs.size() * sizeof(BlockRun));
  }
  return bytes;
}

}  // namespace

bool RecordBudget::Take(int64_t bytes) {
  if (left_.fetch_sub(bytes) >= bytes) return true;
  GiveBack(bytes);
  return false;
}

void SelectionRecord::Add(int32_t position, int32_t token, bool dense,
                          const model::SelectionTrace& trace) {
  Step step = {.position = position, .token = token, .dense = dense, .layers = {}};
  if (!dense) {
    for (const std::vector<int32_t>& blocks : trace.blocks) step.layers.push_back(Runs(blocks));
  }
  const int64_t bytes = BytesOf(step);
  if (dropped_ > 0 || !budget_->Take(bytes)) {
    ++dropped_;
    return;
  }
  bytes_ += bytes;
  steps_.push_back(std::move(step));
}

}  // namespace spotd::engine
