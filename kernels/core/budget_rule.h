// From a row's block masses to the blocks it reads: the dual top-p rule of DESIGN 2 and its fixed
// relatives, written once for every backend.
//
// Terms. A row sees `context` tokens in n = ceil(context / block_tokens) blocks; the last may be
// partly filled. Reserved blocks are those that hold any of the first sink_tokens or of the last
// recency_tokens tokens: a partly covered block counts whole, and the block of the newest token is
// always reserved. The others are the residual; the rule chooses among them.
//
// Masses. Block b has mass exp(lse[b]) up to a constant of the row; NaN counts as -inf. Residual
// masses are integers, 2^31 for the largest one (BudgetMass), so that sums are exact and do not
// depend on the order of summation: a result is the same on every backend and in every batch.
//
// Order. Residual blocks are taken by descending lse, ties to the lower index. Let R be the
// reserved mass, S the residual mass and T the mass taken so far:
//  - kDualTopP: until T >= p_residual * S or R + T >= p_total * (R + S), whichever comes first.
//    A p of 1 never stops.
//  - kFixedTokens: until the chosen blocks, reserved included, number floor(k_tokens /
//    block_tokens); every block when k_tokens >= context.
//  - kFixedFraction: likewise with the nearest integer to fraction * n.
//  - kReservedOnly: none is taken, scores are not read, the limits below do not apply.
// Then the number of chosen blocks (reserved included) is raised to ceil(k_min_tokens /
// block_tokens), and capped at floor(k_max_tokens / block_tokens) when k_max_tokens is in (0,
// context). The cap wins over the floor, and the reserved blocks over both. No candidate is
// dropped: with a large enough budget every block is chosen, whatever its mass.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/core/host_device.h"

namespace spotd::kernels {

// How a row's budget is read from its block masses.
enum class BudgetKind : uint8_t {
  kDualTopP,       // nucleus over the residual, stopped by p_residual or p_total
  kFixedTokens,    // best blocks up to k_tokens (reserved included)
  kFixedFraction,  // best blocks up to fraction * visible blocks (reserved included)
  kReservedOnly,   // sinks and recency only; scores are not read
};

struct BudgetRule {
  BudgetKind kind;
  float p_residual;        // kDualTopP, in (0, 1]
  float p_total;           // kDualTopP, in (0, 1]
  float fraction;          // kFixedFraction, in (0, 1]
  int32_t k_tokens;        // kFixedTokens
  int32_t sink_tokens;     // reserved at the start
  int32_t recency_tokens;  // reserved at the end
  int32_t k_min_tokens;    // floor, reserved included
  int32_t k_max_tokens;    // cap, reserved included; 0 = no cap
};

// A rule applied to one context length: which blocks are reserved, and how many others may be
// taken.
struct BudgetPlan {
  int32_t blocks;        // n
  int32_t sink_blocks;   // [0, sink_blocks) is reserved
  int32_t recent_begin;  // [recent_begin, n) is reserved; sink_blocks <= recent_begin
  int32_t min_take;      // residual blocks taken whatever their mass
  int32_t max_take;      // >= min_take, <= recent_begin - sink_blocks

  SPOTD_HOST_DEVICE int32_t reserved() const { return blocks - residual(); }
  SPOTD_HOST_DEVICE int32_t residual() const { return recent_begin - sink_blocks; }
};

SPOTD_HOST_DEVICE inline int32_t ClampInt(int64_t x, int64_t low, int64_t high) {
  return static_cast<int32_t>(x < low ? low : x > high ? high : x);
}

// Blocks that `tokens` pay for, of the `blocks` that hold `context` tokens.
SPOTD_HOST_DEVICE inline int32_t BlocksPaidFor(int32_t tokens, int32_t context,
                                               int32_t block_tokens, int32_t blocks) {
  return tokens >= context ? blocks : tokens / block_tokens;
}

// Reserved and residual blocks, with no residual block to take yet. context >= 0.
SPOTD_HOST_DEVICE inline BudgetPlan PlanReserved(const BudgetRule& rule, int32_t context,
                                                 int32_t block_tokens) {
  BudgetPlan plan = {};
  plan.blocks = static_cast<int32_t>((int64_t{context} + block_tokens - 1) / block_tokens);
  plan.sink_blocks =
      ClampInt((int64_t{rule.sink_tokens} + block_tokens - 1) / block_tokens, 0, plan.blocks);
  const int64_t recency = rule.recency_tokens > 1 ? rule.recency_tokens : 1;
  const int64_t first_recent = recency < context ? context - recency : 0;
  plan.recent_begin = ClampInt(first_recent / block_tokens, plan.sink_blocks, plan.blocks);
  return plan;
}

SPOTD_HOST_DEVICE inline BudgetPlan PlanBudget(const BudgetRule& rule, int32_t context,
                                               int32_t block_tokens) {
  BudgetPlan plan = PlanReserved(rule, context, block_tokens);
  if (rule.kind == BudgetKind::kReservedOnly) return plan;
  const int32_t n = plan.blocks;
  int32_t low = 0;
  int32_t high = n;
  if (rule.kind == BudgetKind::kFixedTokens) {
    low = high = BlocksPaidFor(rule.k_tokens, context, block_tokens, n);
  } else if (rule.kind == BudgetKind::kFixedFraction) {
    low = high = ClampInt(static_cast<int64_t>(double{rule.fraction} * n + 0.5), 0, n);
  }
  const auto floor = ClampInt((int64_t{rule.k_min_tokens} + block_tokens - 1) / block_tokens, 0, n);
  if (low < floor) low = floor;
  if (high < floor) high = floor;
  if (rule.k_max_tokens > 0) {
    const int32_t cap = BlocksPaidFor(rule.k_max_tokens, context, block_tokens, n);
    if (low > cap) low = cap;
    if (high > cap) high = cap;
  }
  plan.min_take = ClampInt(int64_t{low} - plan.reserved(), 0, plan.residual());
  plan.max_take = ClampInt(int64_t{high} - plan.reserved(), 0, plan.residual());
  return plan;
}

// An integer that orders scores as floats do, -inf (and NaN) lowest, -0 equal to 0.
SPOTD_HOST_DEVICE inline uint32_t BudgetOrder(float lse) {
  const uint32_t bits = FloatBits(lse == lse ? lse + 0.0f : -INFINITY);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

inline constexpr uint32_t kBudgetUnit = 0x80000000u;  // the mass of the largest block

// 2^31 * exp(lse - max) to within 3e-6 of its value, rounded down; lse <= max. Integer arithmetic:
// the same on every machine.
SPOTD_HOST_DEVICE inline uint32_t BudgetMass(float lse, float max) {
  if (lse == max) return max == -INFINITY ? 0 : kBudgetUnit;
  const float halvings = (max - lse) * 1.44269504f;  // lse - max as a power of 1/2
  if (!(halvings < 32.0f)) return 0;
  const auto fixed = static_cast<uint32_t>(halvings * 0x1p26f);
  const auto x = static_cast<int32_t>((fixed & 0x3ffffffu) << 5);  // fraction, 31 bits
  const auto times_x = [x](int32_t r) { return static_cast<int32_t>((int64_t{r} * x) >> 31); };
  // 2^31 * 2^-x: a least-squares polynomial on [0, 1), relative error 5e-9, exact at 0.
  int32_t r = -24285;
  r = 319773 + times_x(r);
  r = -2856057 + times_x(r);
  r = 20652262 + times_x(r);
  r = -119193751 + times_x(r);
  r = 515882470 + times_x(r);
  r = -1488522236 + times_x(r);
  return (kBudgetUnit + static_cast<uint32_t>(times_x(r))) >> (fixed >> 26);
}

// Sums of BudgetMass, each relative to the largest lse of its own set.
struct BudgetMasses {
  uint64_t reserved;
  uint64_t residual;
  float reserved_max;
  float residual_max;
};

// What one unit of reserved mass is worth in units of the residual's.
SPOTD_HOST_DEVICE inline double ReservedScale(float reserved_max, float residual_max) {
  const double shift = static_cast<double>(reserved_max) - static_cast<double>(residual_max);
  return exp(shift < 600.0 ? shift : 600.0);
}

// The reserved mass in units of the residual's; `scale` is ReservedScale of the two maxima.
SPOTD_HOST_DEVICE inline double ReservedMass(const BudgetMasses& m, double scale) {
  if (m.reserved == 0) return 0.0;
  if (m.residual == 0) return static_cast<double>(m.reserved);
  return static_cast<double>(m.reserved) * scale;
}
SPOTD_HOST_DEVICE inline double ReservedMass(const BudgetMasses& m) {
  return ReservedMass(m, ReservedScale(m.reserved_max, m.residual_max));
}

// The residual mass at which kDualTopP stops, with `reserved` = ReservedMass(m). Infinite for the
// fixed kinds, which stop by count.
SPOTD_HOST_DEVICE inline double BudgetMassNeeded(const BudgetRule& rule, const BudgetMasses& m,
                                                 double reserved) {
  if (rule.kind != BudgetKind::kDualTopP) return INFINITY;
  const auto residual = static_cast<double>(m.residual);
  double needed = INFINITY;
  if (rule.p_residual < 1.0f) needed = rule.p_residual * residual;
  if (rule.p_total < 1.0f) {
    const double by_total = rule.p_total * residual - (1.0 - rule.p_total) * reserved;
    needed = by_total < needed ? by_total : needed;
  }
  return needed;
}
SPOTD_HOST_DEVICE inline double BudgetMassNeeded(const BudgetRule& rule, const BudgetMasses& m) {
  return BudgetMassNeeded(rule, m, ReservedMass(m));
}

// Whether the rule takes one more block after `count` residual blocks of mass `mass`. Once false it
// stays false as blocks are added, so a search may test any prefix of the order.
SPOTD_HOST_DEVICE inline bool BudgetWantsMore(const BudgetPlan& plan, double needed, int32_t count,
                                              uint64_t mass) {
  if (count < plan.min_take) return true;
  return count < plan.max_take && static_cast<double>(mass) < needed;
}

// The share of all mass that the chosen blocks hold, in [0, 1]; 1 when there is no mass to miss.
SPOTD_HOST_DEVICE inline float BudgetCovered(const BudgetMasses& m, uint64_t taken) {
  if (taken == m.residual) return 1.0f;
  const double reserved = ReservedMass(m);
  return static_cast<float>((reserved + static_cast<double>(taken)) /
                            (reserved + static_cast<double>(m.residual)));
}

struct BudgetChoice {
  int32_t count;  // blocks written
  float covered;  // BudgetCovered of them; 1 for kReservedOnly
};

// Host form of the rule, O(n). lse: [n], not read for kReservedOnly. selected: [n], ascending on
// return. mass: [n] scratch.
BudgetChoice ChooseBlocks(const BudgetRule& rule, int32_t context, int32_t block_tokens,
                          const float* lse, int32_t* selected, uint32_t* mass);

}  // namespace spotd::kernels
