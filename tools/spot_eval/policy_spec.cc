#include "tools/spot_eval/policy_spec.h"

#include <charconv>
#include <cmath>

#include "kernels/core/status.h"

namespace spotd::eval {
namespace {

absl::Status BadSpec(const std::string& text) {
  return InvalidArgument(
      "--policies: '", text,
      "' is not full, window, quest@SHARE, topk@SHARE, oracle@SHARE, distilled@P or oracle-p@P");
}

}  // namespace

absl::StatusOr<PolicySpec> ParsePolicySpec(const std::string& text, int32_t context) {
  const size_t at = text.find('@');
  const std::string name = text.substr(0, at);
  float number = 0;
  const bool has_number = at != std::string::npos;
  if (has_number) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + at + 1, end, number);
    if (error != std::errc() || stop != end || !(number > 0 && number <= 1)) return BadSpec(text);
  }
  PolicySpec spec;
  spec.label = text;
  spec.policy.dense_below_tokens = 0;
  auto kind = model::ParsePolicy(name == "oracle-p" ? "oracle" : name);
  if (!kind.ok()) return BadSpec(text);
  spec.policy.kind = *kind;
  const bool takes_number =
      *kind != model::PolicyKind::kFull && *kind != model::PolicyKind::kWindow;
  if (takes_number != has_number) return BadSpec(text);
  if (*kind == model::PolicyKind::kDistilled || name == "oracle-p") spec.policy.p_residual = number;
  if (*kind == model::PolicyKind::kQuest) spec.policy.fraction = number;
  if (*kind == model::PolicyKind::kTopK || name == "oracle") {
    spec.policy.k_tokens = static_cast<int32_t>(std::lround(number * static_cast<float>(context)));
  }
  SPOTD_RETURN_IF_ERROR(spec.policy.Validate());
  return spec;
}

}  // namespace spotd::eval
