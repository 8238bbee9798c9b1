// How a policy is written on the command line of spot-eval: NAME or NAME@NUMBER.
//
//   full   window   quest@0.10 (share of the blocks)   topk@0.10   oracle@0.10 (share of the
//   context, one choice a layer) distilled@0.8 (p_residual)   oracle-p@0.8 (true mass under the
//   same rule)
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/policy.h"

namespace spotd::eval {

struct PolicySpec {
  std::string label;  // as written
  model::Policy policy;
};

// INVALID_ARGUMENT lists the forms. Shares become token counts at `context` tokens; never dense at
// short contexts.
absl::StatusOr<PolicySpec> ParsePolicySpec(const std::string& text, int32_t context);

}  // namespace spotd::eval
