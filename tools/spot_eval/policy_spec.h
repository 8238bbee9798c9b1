// How a policy is written on the command line of spot-eval: NAME or NAME@NUMBER.
//
//   full, window       as in the runtime
//   distilled@0.8      the trained selector, dual top-p with this p_residual
//   topk@0.10          the trained selector, this share of the context
//   quest@0.10         Quest, this share of the blocks, one choice a KV head
//   oracle@0.10        true attention mass, this share of the context, one choice a layer
//   oracle-p@0.8       true attention mass under the dual top-p rule
//   oracle-kv@0.10, oracle-kv-p@0.8   the same two, one choice a KV head
//   twilight@0.9:0.25  emulated (twilight_backend.h): top-p 0.9 over the quarter of the blocks that
//                      Quest likes best; the quarter is the default
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/policy.h"
#include "tools/spot_eval/twilight_backend.h"

namespace spotd::eval {

struct PolicySpec {
  std::string label;  // as written
  model::Policy policy;
  std::optional<TwilightRule> twilight;  // with policy.kind kQuest

  bool needs_selector() const {
    return policy.kind == model::PolicyKind::kDistilled || policy.kind == model::PolicyKind::kTopK;
  }
};

// INVALID_ARGUMENT lists the forms. Shares become token counts at `context` tokens; never dense at
// short contexts.
absl::StatusOr<PolicySpec> ParsePolicySpec(const std::string& text, int32_t context);

}  // namespace spotd::eval
