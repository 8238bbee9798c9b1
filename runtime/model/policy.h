// Which blocks a decode step reads: the policies of DESIGN 2, chosen per server, session or
// request.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/backend.h"

namespace spotd::model {

enum class PolicyKind : uint8_t {
  kFull,       // dense: every visible block
  kDistilled,  // the trained selector with the dual top-p rule
  kQuest,   // training-free per-block bounds, a fraction of the visible blocks, one choice per KV
            // group
  kTopK,    // the trained selector with a fixed number of tokens
  kWindow,  // sinks and the newest tokens, k_min_tokens in all
  kOracle,  // true attention mass: tests and evaluation
};

std::string_view PolicyName(PolicyKind kind);                   // "full", "distilled", ...
absl::StatusOr<PolicyKind> ParsePolicy(std::string_view name);  // INVALID_ARGUMENT lists the names

// What policy distilled gives one layer at its default settings; a selector file carries one for
// each layer once it is calibrated (docs/distillation.md). A p of 1 never stops: such a layer stays
// dense.
struct LayerBudget {
  float p_residual = 0.8f;
  float p_total = 0.98f;
  int32_t k_min_tokens = 512;
};

struct Policy {
  PolicyKind kind = PolicyKind::kFull;
  float p_residual = 0.8f;  // distilled, oracle with k_tokens = 0
  float p_total = 0.98f;    // distilled, oracle with k_tokens = 0
  float fraction = 0.10f;   // quest: share of visible blocks
  int32_t k_tokens =
      0;  // topk: tokens read (0 = 2048); quest, oracle: > 0 replaces fraction / top-p
  int32_t sink_tokens = 16;
  int32_t recency_tokens = 64;
  int32_t k_min_tokens = 512;
  int32_t k_max_tokens = 0;         // 0 = no cap
  bool oracle_per_kv_head = false;  // oracle: each KV head chooses for itself, as Quest's do
  // Contexts of at most this many tokens are read densely: choosing costs more than it saves there.
  int32_t dense_below_tokens = 1024;

  bool operator==(const Policy&) const = default;
  // INVALID_ARGUMENT names the field and the limit it breaks.
  absl::Status Validate() const;
  // The rule the kernels apply in every layer without a budget of its own. Not for kFull.
  kernels::BudgetRule Rule() const;
  // The rule for a layer of a calibrated selector. Policies other than distilled ignore `budget`. A
  // policy that differs from the defaults moves every layer alike: p_residual and p_total by the
  // same step in log odds, the floor by the same factor.
  kernels::BudgetRule LayerRule(const LayerBudget& budget) const;
};

// The contexts that a policy should read densely on a device whose blocks cost so much to choose:
// at least Policy's own default, for a model with `kv_heads` heads of `head_dim`.
int32_t DenseBelowTokens(PolicyKind kind, const kernels::ChoosingCost& cost, int32_t kv_heads,
                         int32_t head_dim);

}  // namespace spotd::model
