#include "runtime/engine/request_check.h"

#include <cmath>
#include <string>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/text/utf8.h"

namespace spotd::engine {
namespace {

absl::Status Invalid(const char* reason, std::string_view field, const std::string& what) {
  return MakeError(absl::StatusCode::kInvalidArgument, Concat(field, " ", what),
                   {.reason = reason, .field = std::string(field)});
}

absl::Status OutOfRange(const char* reason, const std::string& message, int64_t limit,
                        int64_t got) {
  return MakeError(absl::StatusCode::kOutOfRange, message,
                   {.reason = reason,
                    .metadata = {{"limit", std::to_string(limit)}, {"got", std::to_string(got)}}});
}

// The comparison is written so that NaN fails it.
absl::Status CheckRange(std::string_view field, float value, float low, float high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Invalid(reason::kInvalidSampling, field,
                 Concat("is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::Status CheckAbove(std::string_view field, float value, float low, float high) {
  if (value > low && value <= high) return absl::OkStatus();
  return Invalid(reason::kInvalidSampling, field,
                 Concat("is ", value, "; it must be above ", low, " and at most ", high));
}

absl::Status CheckNotNegative(std::string_view field, int32_t value) {
  if (value >= 0) return absl::OkStatus();
  return Invalid(reason::kInvalidSampling, field,
                 Concat("is ", value, "; it must not be negative"));
}

absl::Status CheckStops(const Sampling& sampling, int32_t vocab) {
  constexpr std::string_view kStop = "sampling.stop";
  if (sampling.stop_strings.size() > kMaxStopStrings) {
    return Invalid(
        reason::kInvalidSampling, kStop,
        Concat("has ", sampling.stop_strings.size(), " texts; at most ", kMaxStopStrings));
  }
  for (const std::string& stop : sampling.stop_strings) {
    if (stop.empty() || stop.size() > kMaxStopStringBytes) {
      return Invalid(reason::kInvalidSampling, kStop,
                     Concat("has a text of ", stop.size(), " bytes; each must have 1 to ",
                            kMaxStopStringBytes));
    }
    SPOTD_RETURN_IF_ERROR(CheckUtf8(stop, kStop));
  }
  constexpr std::string_view kStopTokens = "sampling.stop_token_ids";
  if (sampling.stop_tokens.size() > kMaxStopTokens) {
    return Invalid(reason::kInvalidSampling, kStopTokens,
                   Concat("has ", sampling.stop_tokens.size(), " ids; at most ", kMaxStopTokens));
  }
  return CheckTokens(sampling.stop_tokens, vocab, kStopTokens);
}

struct InputBytes {
  size_t operator()(const TextInput& input) const { return input.text.size(); }
  size_t operator()(const TokenInput&) const { return 0; }
  size_t operator()(const MessageInput& messages) const {
    size_t bytes = 0;
    for (const text::ChatMessage& message : messages) {
      bytes += message.role.size() + message.content.size();
    }
    return bytes;
  }
};

}  // namespace

absl::Status CheckSampling(const Sampling& sampling, int32_t vocab) {
  const kernels::SamplingParams& p = sampling.params;
  SPOTD_RETURN_IF_ERROR(CheckRange("sampling.temperature", p.temperature, 0, kMaxTemperature));
  SPOTD_RETURN_IF_ERROR(CheckNotNegative("sampling.top_k", p.top_k));
  SPOTD_RETURN_IF_ERROR(CheckAbove("sampling.top_p", p.top_p, 0, 1));
  SPOTD_RETURN_IF_ERROR(CheckRange("sampling.min_p", p.min_p, 0, 1));
  SPOTD_RETURN_IF_ERROR(
      CheckAbove("sampling.repetition_penalty", p.repetition_penalty, 0, kMaxPenalty));
  SPOTD_RETURN_IF_ERROR(
      CheckRange("sampling.presence_penalty", p.presence_penalty, -kMaxPenalty, kMaxPenalty));
  SPOTD_RETURN_IF_ERROR(
      CheckRange("sampling.frequency_penalty", p.frequency_penalty, -kMaxPenalty, kMaxPenalty));
  SPOTD_RETURN_IF_ERROR(CheckNotNegative("sampling.max_tokens", sampling.max_tokens));
  return CheckStops(sampling, vocab);
}

absl::Status CheckPolicy(const model::Policy& policy, bool has_selector) {
  if (const absl::Status status = policy.Validate(); !status.ok()) {
    // The message begins with the field's name.
    const std::string message(status.message());
    return MakeError(
        status.code(), message,
        {.reason = reason::kInvalidPolicy, .field = message.substr(0, message.find(' '))});
  }
  const bool needs_selector =
      policy.kind == model::PolicyKind::kDistilled || policy.kind == model::PolicyKind::kTopK;
  if (!needs_selector || has_selector) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   Concat("policy \"", model::PolicyName(policy.kind),
                          "\" needs a selector, and this server runs without one"),
                   {.reason = reason::kSelectorMissing, .field = "policy.kind"});
}

absl::Status CheckReportBlocks(int32_t report_blocks) {
  if (report_blocks >= 0 && report_blocks <= kMaxReportBlocks) return absl::OkStatus();
  return Invalid(reason::kInvalidField, "top_blocks",
                 Concat("is ", report_blocks, "; it must be in [0, ", kMaxReportBlocks, "]"));
}

absl::Status CheckDisplayName(std::string_view name) {
  if (name.size() > kMaxDisplayNameBytes) {
    return Invalid(reason::kInvalidField, "display_name",
                   Concat("has ", name.size(), " bytes; at most ", kMaxDisplayNameBytes));
  }
  return CheckUtf8(name, "display_name");
}

absl::Status CheckTokens(std::span<const int32_t> tokens, int32_t vocab, std::string_view field) {
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    return MakeError(
        absl::StatusCode::kInvalidArgument,
        Concat(field, " has token ", token, "; ids are in [0, ", vocab, ")"),
        {.reason = reason::kTokenOutOfRange,
         .field = std::string(field),
         .metadata = {{"limit", std::to_string(vocab)}, {"got", std::to_string(token)}}});
  }
  return absl::OkStatus();
}

absl::Status CheckPromptBytes(std::span<const Input> inputs, size_t limit) {
  size_t bytes = 0;
  for (const Input& input : inputs) bytes += std::visit(InputBytes(), input);
  if (bytes <= limit) return absl::OkStatus();
  return OutOfRange(reason::kPromptTooLong,
                    Concat("the prompt has ", bytes, " bytes; the limit is ", limit),
                    static_cast<int64_t>(limit), static_cast<int64_t>(bytes));
}

absl::Status CheckContext(int64_t tokens, int32_t limit) {
  if (tokens <= limit) return absl::OkStatus();
  return OutOfRange(
      reason::kContextOverflow,
      Concat("session and prompt need ", tokens, " tokens of context; the limit is ", limit), limit,
      tokens);
}

absl::Status CheckUtf8(std::string_view text, std::string_view field) {
  const auto offset = text::FirstInvalidUtf8(text);
  if (!offset) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument,
                   Concat(field, " is not valid UTF-8 at byte ", *offset),
                   {.reason = reason::kInvalidUtf8,
                    .field = std::string(field),
                    .metadata = {{"byte", std::to_string(*offset)}}});
}

}  // namespace spotd::engine
