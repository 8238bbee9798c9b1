// What the two forms of selection share of the rule (kernels/core/budget_rule.h): select.cu by a
// team of thread blocks, select_cluster.cu by a cluster.
#pragma once

#include "kernels/args.h"
#include "kernels/cuda/device.cuh"

namespace spotd::kernels::cuda {

// Masses vanish this far under the largest lse: bins of a mass-driven rule need not reach further.
inline constexpr float kMassRange = 22.5f;

// The mass of a row of fewer than kPackedBlocks residual blocks takes 47 bits: its count fits above
// and an addition is one.
inline constexpr int kPackedBlocks = 1 << 16;
inline constexpr int kCountShift = 47;

__device__ inline float FromOrder(uint32_t key) {
  return FloatFromBits((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// Scores matter where there is something to leave out.
__device__ inline bool IsScored(const BudgetRule& rule, const BudgetPlan& plan) {
  return rule.kind != BudgetKind::kReservedOnly && plan.min_take < plan.residual();
}

// The mass at which the rule stops, as the least integer that satisfies it.
__device__ inline uint64_t NeededMass(const BudgetRule& rule, const BudgetMasses& masses,
                                      double reserved_scale) {
  const double needed = ceil(BudgetMassNeeded(rule, masses, ReservedMass(masses, reserved_scale)));
  if (!(needed > 0.0)) return 0;
  return needed < 9e18 ? static_cast<uint64_t>(needed) : UINT64_MAX;
}

// BudgetCovered in single precision: it informs, it decides nothing.
__device__ inline float CoveredMass(const BudgetMasses& masses, uint64_t taken) {
  if (taken == masses.residual) return 1.0f;
  float reserved = static_cast<float>(masses.reserved);
  if (masses.residual > 0)
    reserved *= expf(fminf(masses.reserved_max - masses.residual_max, 60.0f));
  return (reserved + static_cast<float>(taken)) / (reserved + static_cast<float>(masses.residual));
}

}  // namespace spotd::kernels::cuda
