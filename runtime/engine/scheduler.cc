#include "runtime/engine/scheduler.h"

#include <tuple>

namespace spotd::engine {
namespace {

// Chunks left, less what waiting has earned. Scaled by kAgingSteps to stay with integers.
int64_t PrefillRank(const RunningView& view, int32_t prefill_chunk) {
  const int64_t chunks = (int64_t{view.prefill_left} + prefill_chunk - 1) / prefill_chunk;
  return chunks * kAgingSteps - view.passed_over;
}

bool PrefilledBefore(const RunningView& a, const RunningView& b, int32_t prefill_chunk) {
  return std::tuple(a.tenant_served, -a.priority, PrefillRank(a, prefill_chunk)) <
         std::tuple(b.tenant_served, -b.priority, PrefillRank(b, prefill_chunk));
}

// Ties go to the sequence admitted first.
std::optional<int32_t> ChoosePrefill(std::span<const RunningView> running, int32_t prefill_chunk) {
  std::optional<int32_t> best;
  for (int32_t i = 0; i < static_cast<int32_t>(running.size()); ++i) {
    if (!running[i].prefilling) continue;
    if (!best || PrefilledBefore(running[i], running[*best], prefill_chunk)) best = i;
  }
  return best;
}

// Of the sequences that do not prefill. Later ones are preferred.
int32_t ChooseVictim(std::span<const RunningView> running, std::span<const int32_t> starved) {
  const auto rank = [&](int32_t i) {
    return std::tuple(running[i].ready, running[i].priority, -i);
  };
  int32_t victim = starved.back();
  for (const int32_t i : starved) {
    if (rank(i) < rank(victim)) victim = i;
  }
  for (int32_t i = 0; i < static_cast<int32_t>(running.size()); ++i) {
    if (!running[i].prefilling && !running[i].ready && rank(i) < rank(victim)) victim = i;
  }
  return victim;
}

}  // namespace

Admission Admit(const AdmissionState& state) {
  if (state.taken + state.places > state.max_running) return Admission::kWait;
  // Who needs nothing may come in although others are owed more than there is.
  const bool fits = state.blocks_needed == 0 || state.blocks_needed <= state.blocks_available;
  if (fits) return Admission::kAdmit;
  return state.preempted ? Admission::kWait : Admission::kRefuse;
}

bool GoesFirst(const WaitingView& a, const WaitingView& b) {
  return std::tuple(a.tenant_running, a.tenant_served, -a.priority, a.arrival) <
         std::tuple(b.tenant_running, b.tenant_served, -b.priority, b.arrival);
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
  if (stuck && !plan.starved.empty()) plan.preempt = ChooseVictim(running, plan.starved);
  return plan;
}

}  // namespace spotd::engine
