#include "runtime/model/policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "kernels/core/status.h"

namespace spotd::model {
namespace {

constexpr std::array<std::string_view, 6> kPolicyNames = {"full", "distilled", "quest",
                                                          "topk", "window",    "oracle"};
constexpr int32_t kDefaultTopKTokens = 2048;
// Token counts above any context a block table can address are typing errors.
constexpr int32_t kMaxTokens = 1 << 26;

// A share must be in (0, 1]; the comparison is written so that NaN fails it.
absl::Status CheckShare(std::string_view field, float value) {
  if (value > 0.0f && value <= 1.0f) return absl::OkStatus();
  return InvalidArgument("policy.", field, " is ", value, "; it must be above 0 and at most 1");
}

// `calibrated` moved by as much, in log odds, as `asked` is from `standard`.
float MoveShare(float calibrated, float asked, float standard) {
  if (calibrated >= 1.0f || asked >= 1.0f) return 1.0f;
  if (asked == standard) return calibrated;
  const auto odds = [](float p) { return double{p} / (1.0 - double{p}); };
  const double moved = odds(calibrated) * odds(asked) / odds(standard);
  return static_cast<float>(moved / (1.0 + moved));
}

absl::Status CheckTokens(std::string_view field, int32_t value) {
  if (value >= 0 && value <= kMaxTokens) return absl::OkStatus();
  return InvalidArgument("policy.", field, " is ", value, "; it must be between 0 and ",
                         kMaxTokens);
}

}  // namespace

std::string_view PolicyName(PolicyKind kind) {
  return kPolicyNames[static_cast<size_t>(kind)];
}

absl::StatusOr<PolicyKind> ParsePolicy(std::string_view name) {
  for (size_t i = 0; i < kPolicyNames.size(); ++i) {
    if (kPolicyNames[i] == name) return static_cast<PolicyKind>(i);
  }
  std::string known;
  for (const std::string_view policy : kPolicyNames) {
    if (!known.empty()) known += ", ";
    known += policy;
  }
  return InvalidArgument("unknown policy \"", name, "\"; known: ", known);
}

absl::Status Policy::Validate() const {
  SPOTD_RETURN_IF_ERROR(CheckShare("p_residual", p_residual));
  SPOTD_RETURN_IF_ERROR(CheckShare("p_total", p_total));
  SPOTD_RETURN_IF_ERROR(CheckShare("fraction", fraction));
  SPOTD_RETURN_IF_ERROR(CheckTokens("k_tokens", k_tokens));
  SPOTD_RETURN_IF_ERROR(CheckTokens("sink_tokens", sink_tokens));
  SPOTD_RETURN_IF_ERROR(CheckTokens("recency_tokens", recency_tokens));
  SPOTD_RETURN_IF_ERROR(CheckTokens("k_min_tokens", k_min_tokens));
  SPOTD_RETURN_IF_ERROR(CheckTokens("k_max_tokens", k_max_tokens));
  SPOTD_RETURN_IF_ERROR(CheckTokens("dense_below_tokens", dense_below_tokens));
  if (k_max_tokens != 0 && k_max_tokens < k_min_tokens) {
    return InvalidArgument("policy.k_max_tokens is ", k_max_tokens, ", below k_min_tokens, ",
                           k_min_tokens);
  }
  return absl::OkStatus();
}

kernels::BudgetRule Policy::Rule() const {
  using kernels::BudgetKind;
  kernels::BudgetRule rule = {};
  rule.p_residual = p_residual;
  rule.p_total = p_total;
  rule.fraction = fraction;
  rule.k_tokens = k_tokens;
  rule.sink_tokens = sink_tokens;
  rule.recency_tokens = recency_tokens;
  rule.k_min_tokens = k_min_tokens;
  rule.k_max_tokens = k_max_tokens;
  switch (kind) {
    case PolicyKind::kFull:
    case PolicyKind::kDistilled:
      rule.kind = BudgetKind::kDualTopP;
      break;
    case PolicyKind::kQuest:
      rule.kind = k_tokens > 0 ? BudgetKind::kFixedTokens : BudgetKind::kFixedFraction;
      break;
    case PolicyKind::kTopK:
      rule.kind = BudgetKind::kFixedTokens;
      if (k_tokens == 0) rule.k_tokens = kDefaultTopKTokens;
      break;
    case PolicyKind::kWindow:
      rule.kind = BudgetKind::kReservedOnly;
      rule.recency_tokens = std::max(recency_tokens, k_min_tokens - sink_tokens);
      break;
    case PolicyKind::kOracle:
      rule.kind = k_tokens > 0 ? BudgetKind::kFixedTokens : BudgetKind::kDualTopP;
      break;
  }
  return rule;
}

kernels::BudgetRule Policy::LayerRule(const LayerBudget& budget) const {
  kernels::BudgetRule rule = Rule();
  if (kind != PolicyKind::kDistilled) return rule;
  const Policy standard;
  rule.p_residual = MoveShare(budget.p_residual, p_residual, standard.p_residual);
  rule.p_total = MoveShare(budget.p_total, p_total, standard.p_total);
  rule.k_min_tokens = static_cast<int32_t>(std::min<int64_t>(
      int64_t{budget.k_min_tokens} * k_min_tokens / standard.k_min_tokens, kMaxTokens));
  return rule;
}

int32_t DenseBelowTokens(PolicyKind kind, const kernels::ChoosingCost& cost, int32_t kv_heads,
                         int32_t head_dim) {
  int64_t bytes = 0;
  if (kind == PolicyKind::kDistilled || kind == PolicyKind::kTopK) bytes = cost.selector_bytes;
  if (kind == PolicyKind::kQuest) bytes = cost.quest_bytes;
  const int64_t token_bytes = int64_t{4} * kv_heads * head_dim;  // K and V in bf16
  return static_cast<int32_t>(
      std::clamp<int64_t>(bytes / token_bytes, Policy{}.dense_below_tokens, kMaxTokens));
}

}  // namespace spotd::model
