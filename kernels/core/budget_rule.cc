#include "kernels/core/budget_rule.h"

namespace spotd::kernels {
namespace {

struct Bins {
  int32_t count[256];
  uint64_t mass[256];
};

// Where the order is cut: every residual block above `order` is taken, and the first `ties` of
// those equal to it. `mass` is what they hold together.
struct Cut {
  uint32_t order;
  int32_t ties;
  uint64_t mass;
};

struct Row {
  BudgetPlan plan;
  double needed;
  const float* lse;
  const uint32_t* mass;
};

float LargestLse(const float* lse, int32_t begin, int32_t end, float largest) {
  for (int32_t b = begin; b < end; ++b) {
    if (lse[b] > largest) largest = lse[b];
  }
  return largest;
}

uint64_t SumMass(const float* lse, int32_t begin, int32_t end, float max, uint32_t* mass) {
  uint64_t sum = 0;
  for (int32_t b = begin; b < end; ++b) {
    mass[b] = BudgetMass(lse[b], max);
    sum += mass[b];
  }
  return sum;
}

BudgetMasses MeasureMasses(const BudgetPlan& plan, const float* lse, uint32_t* mass) {
  BudgetMasses m;
  m.reserved_max = LargestLse(lse, 0, plan.sink_blocks, -INFINITY);
  m.reserved_max = LargestLse(lse, plan.recent_begin, plan.blocks, m.reserved_max);
  m.residual_max = LargestLse(lse, plan.sink_blocks, plan.recent_begin, -INFINITY);
  m.reserved = SumMass(lse, 0, plan.sink_blocks, m.reserved_max, mass) +
               SumMass(lse, plan.recent_begin, plan.blocks, m.reserved_max, mass);
  m.residual = SumMass(lse, plan.sink_blocks, plan.recent_begin, m.residual_max, mass);
  return m;
}

// Radix descent over BudgetOrder, 8 bits at a time from the top: whole bins are taken while the
// rule wants more after them; the bin in which it stops is opened. `open` is scratch: the blocks of
// the opened bin, ascending.
Cut FindCut(const Row& row, int32_t* open) {
  const BudgetPlan& plan = row.plan;
  Cut cut = {};
  int32_t count = 0;
  int32_t open_blocks = plan.residual();
  for (int32_t i = 0; i < open_blocks; ++i) open[i] = plan.sink_blocks + i;
  for (int shift = 24; shift >= 0; shift -= 8) {
    Bins bins = {};
    for (int32_t i = 0; i < open_blocks; ++i) {
      const uint32_t bin = BudgetOrder(row.lse[open[i]]) >> shift & 255;
      ++bins.count[bin];
      bins.mass[bin] += row.mass[open[i]];
    }
    uint32_t bin = 255;
    while (bin > 0 &&
           BudgetWantsMore(plan, row.needed, count + bins.count[bin], cut.mass + bins.mass[bin])) {
      count += bins.count[bin];
      cut.mass += bins.mass[bin];
      --bin;
    }
    cut.order |= bin << shift;
    int32_t kept = 0;
    for (int32_t i = 0; i < open_blocks; ++i) {
      if (BudgetOrder(row.lse[open[i]]) >> shift == cut.order >> shift) open[kept++] = open[i];
    }
    open_blocks = kept;
  }
  // What is left has one order, and so one mass.
  while (cut.ties < open_blocks && BudgetWantsMore(plan, row.needed, count + cut.ties, cut.mass)) {
    cut.mass += row.mass[open[cut.ties++]];
  }
  return cut;
}

int32_t AppendRange(int32_t begin, int32_t end, int32_t* selected, int32_t count) {
  for (int32_t b = begin; b < end; ++b) selected[count++] = b;
  return count;
}

int32_t WriteChosen(const Row& row, Cut cut, int32_t* selected) {
  const BudgetPlan& plan = row.plan;
  int32_t count = AppendRange(0, plan.sink_blocks, selected, 0);
  for (int32_t b = plan.sink_blocks; b < plan.recent_begin; ++b) {
    const uint32_t order = BudgetOrder(row.lse[b]);
    if (order > cut.order || (order == cut.order && cut.ties-- > 0)) selected[count++] = b;
  }
  return AppendRange(plan.recent_begin, plan.blocks, selected, count);
}

}  // namespace

BudgetChoice ChooseBlocks(const BudgetRule& rule, int32_t context, int32_t block_tokens,
                          const float* lse, int32_t* selected, uint32_t* mass) {
  const BudgetPlan plan = PlanBudget(rule, context, block_tokens);
  if (rule.kind == BudgetKind::kReservedOnly) {
    const int32_t sinks = AppendRange(0, plan.sink_blocks, selected, 0);
    return {AppendRange(plan.recent_begin, plan.blocks, selected, sinks), 1.0f};
  }
  if (plan.min_take == plan.residual()) return {AppendRange(0, plan.blocks, selected, 0), 1.0f};
  const BudgetMasses masses = MeasureMasses(plan, lse, mass);
  const Row row = {plan, BudgetMassNeeded(rule, masses), lse, mass};
  const Cut cut = FindCut(row, selected);
  return {WriteChosen(row, cut, selected), BudgetCovered(masses, cut.mass)};
}

}  // namespace spotd::kernels
