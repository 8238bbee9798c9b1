#include "runtime/engine/scheduler.h"

namespace spotd::engine {
namespace {

// Chunks left, less what waiting has earned. Scaled by kAgingSteps to stay with integers.
int64_t PrefillRank(const RunningView& view, int32_t prefill_chunk) {
  const int64_t chunks = (int64_t{view.prefill_left} + prefill_chunk - 1) / prefill_chunk;
  return chunks * kAgingSteps - view.passed_over;
}

// Ties go to the sequence admitted first.
std::optional<int32_t> ChoosePrefill(std::span<const RunningView> running, int32_t prefill_chunk) {
  std::optional<int32_t> best;
  for (int32_t i = 0; i < static_cast<int32_t>(running.size()); ++i) {
    if (!running[i].prefilling) continue;
    if (!best ||
        PrefillRank(running[i], prefill_chunk) < PrefillRank(running[*best], prefill_chunk)) {
      best = i;
    }
  }
  return best;
}

}  // namespace

Admission Admit(const AdmissionState& state) {
  if (state.running >= state.max_running) return Admission::kWait;
  // Who needs nothing may come in although others are owed more than there is.
  const bool fits = state.blocks_needed == 0 || state.blocks_needed <= state.blocks_available;
  return fits ? Admission::kAdmit : Admission::kRefuse;
}

StepPlan PlanStep(std::span<const RunningView> running, const StepState& state) {
  StepPlan plan;
  plan.prefill = ChoosePrefill(running, state.prefill_chunk);
  int32_t blocks = state.blocks_available;
  bool reader_awaited = false;
  for (int32_t i = 0; i < static_cast<int32_t>(running.size()); ++i) {
    const RunningView& view = running[i];
    if (view.prefilling) continue;
    if (!view.ready) {
      reader_awaited = true;
    } else if (view.blocks_needed > blocks) {
      plan.starved.push_back(i);
    } else {
      blocks -= view.blocks_needed;
      plan.decode.push_back(i);
    }
  }
  const bool stuck = plan.decode.empty() && !plan.prefill && (!reader_awaited || state.stalled);
  if (stuck && !plan.starved.empty()) plan.give_up = plan.starved.back();
  return plan;
}

}  // namespace spotd::engine
