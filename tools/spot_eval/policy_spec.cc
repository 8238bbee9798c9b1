#include "tools/spot_eval/policy_spec.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/core/status.h"

namespace spotd::eval {
namespace {

constexpr float kTwilightSuperset = 0.25f;

absl::Status BadSpec(const std::string& text) {
  return InvalidArgument(
      "--policies: '", text,
      "' is not full, window, quest@SHARE, topk@SHARE, oracle@SHARE, "
      "distilled@P, oracle-p@P, oracle-kv@SHARE, oracle-kv-p@P or twilight@P[:SHARE]");
}

// A number in (0, 1].
bool ParseShare(const std::string& text, float* number) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *number);
  return error == std::errc() && stop == end && *number > 0 && *number <= 1;
}

absl::StatusOr<PolicySpec> ParseTwilight(const std::string& text, const std::string& numbers) {
  PolicySpec spec;
  spec.label = text;
  TwilightRule rule = {0, kTwilightSuperset};
  const size_t colon = numbers.find(':');
  if (!ParseShare(numbers.substr(0, colon), &rule.p)) return BadSpec(text);
  if (colon != std::string::npos && !ParseShare(numbers.substr(colon + 1), &rule.superset)) {
    return BadSpec(text);
  }
  spec.policy.kind = model::PolicyKind::kQuest;
  spec.policy.fraction = rule.superset;
  spec.policy.dense_below_tokens = 0;
  spec.twilight = rule;
  return spec;
}

}  // namespace

absl::StatusOr<PolicySpec> ParsePolicySpec(const std::string& text, int32_t context) {
  const size_t at = text.find('@');
  const std::string name = text.substr(0, at);
  const bool has_number = at != std::string::npos;
  if (name == "twilight" && has_number) return ParseTwilight(text, text.substr(at + 1));
  float number = 0;
  if (has_number && !ParseShare(text.substr(at + 1), &number)) return BadSpec(text);
  PolicySpec spec;
  spec.label = text;
  spec.policy.dense_below_tokens = 0;
  const bool oracle_share = name == "oracle" || name == "oracle-kv";
  const bool oracle_p = name == "oracle-p" || name == "oracle-kv-p";
  auto kind = model::ParsePolicy(oracle_share || oracle_p ? "oracle" : name);
  if (!kind.ok()) return BadSpec(text);
  spec.policy.kind = *kind;
  const bool takes_number =
      *kind != model::PolicyKind::kFull && *kind != model::PolicyKind::kWindow;
  if (takes_number != has_number) return BadSpec(text);
  spec.policy.oracle_per_kv_head = name.starts_with("oracle-kv");
  if (*kind == model::PolicyKind::kDistilled || oracle_p) spec.policy.p_residual = number;
  if (*kind == model::PolicyKind::kQuest) spec.policy.fraction = number;
  if (*kind == model::PolicyKind::kTopK || oracle_share) {
    // 0 would mean the runtime's default.
    spec.policy.k_tokens =
        std::max(1, static_cast<int32_t>(std::lround(number * static_cast<float>(context))));
  }
  SPOTD_RETURN_IF_ERROR(spec.policy.Validate());
  return spec;
}

}  // namespace spotd::eval
