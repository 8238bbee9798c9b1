#include "runtime/engine/request_check.h"

#include <algorithm>
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

absl::Status CheckInt(std::string_view field, int32_t value, int32_t low, int32_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Invalid(reason::kInvalidField, field,
                 Concat("is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::Status CheckRequestId(std::string_view id) {
  const bool printable =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (printable && id.size() <= kMaxRequestIdBytes) return absl::OkStatus();
  return Invalid(
      reason::kInvalidField, "request_id",
      Concat("must be printable ASCII without spaces, of at most ", kMaxRequestIdBytes, " bytes"));
}

absl::Status CheckLogitBias(const Sampling& sampling, int32_t vocab) {
  constexpr std::string_view kField = "sampling.logit_bias";
  if (sampling.logit_bias.size() > kMaxLogitBias) {
    return Invalid(reason::kInvalidSampling, kField,
                   Concat("has ", sampling.logit_bias.size(), " tokens; at most ", kMaxLogitBias));
  }
  for (const auto& [token, bias] : sampling.logit_bias) {
    SPOTD_RETURN_IF_ERROR(CheckTokens({&token, 1}, vocab, kField));
    SPOTD_RETURN_IF_ERROR(CheckRange(kField, bias, -kMaxLogitBiasValue, kMaxLogitBiasValue));
  }
  return absl::OkStatus();
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
  SPOTD_RETURN_IF_ERROR(CheckLogitBias(sampling, vocab));
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

absl::Status CheckPolicyBounds(const model::Policy& policy, const PolicyBounds& bounds) {
  const auto refuse = [](const char* field, const std::string& what) {
    return MakeError(absl::StatusCode::kPermissionDenied,
                     Concat(field, " ", what, " on this server"),
                     {.reason = reason::kPolicyNotAllowed, .field = field});
  };
  const auto& allowed = bounds.allowed;
  if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), policy.kind) == allowed.end()) {
    return refuse("policy.kind", Concat("\"", model::PolicyName(policy.kind), "\" is not allowed"));
  }
  if (policy.k_min_tokens < bounds.min_tokens) {
    return refuse("policy.k_min_tokens",
                  Concat("is ", policy.k_min_tokens, "; it must be at least ", bounds.min_tokens));
  }
  const bool capped = policy.k_max_tokens > 0 && policy.k_max_tokens <= bounds.max_tokens;
  if (bounds.max_tokens > 0 && !capped) {
    return refuse("policy.k_max_tokens", Concat("is ", policy.k_max_tokens, "; it must be in [1, ",
                                                bounds.max_tokens, "]"));
  }
  return absl::OkStatus();
}

absl::Status CheckReports(const GenerateRequest& request, int32_t max_running) {
  const int32_t most = std::min(kMaxCandidates, max_running);
  SPOTD_RETURN_IF_ERROR(CheckInt("top_blocks", request.report_blocks, 0, kMaxReportBlocks));
  SPOTD_RETURN_IF_ERROR(CheckInt("top_logprobs", request.top_logprobs, 0, kMaxTopLogprobs));
  SPOTD_RETURN_IF_ERROR(CheckInt("candidate_count", request.candidates, 1, most));
  if (request.candidates > 1 && !request.request_id.empty()) {
    return Invalid(reason::kInvalidField, "request_id", "cannot be used with several candidates");
  }
  if (request.record_selection && request.session_id.empty()) {
    return Invalid(reason::kInvalidField, "record_trace", "needs a session that keeps the record");
  }
  return absl::OkStatus();
}

absl::Status CheckHead(const RequestHead& head) {
  SPOTD_RETURN_IF_ERROR(CheckInt("priority", head.priority, kMinPriority, kMaxPriority));
  if (!head.request_id.empty() && head.session_id.empty()) {
    return Invalid(reason::kInvalidField, "request_id",
                   "needs a session that remembers the answer");
  }
  if (!head.etag.empty() && head.session_id.empty()) {
    return Invalid(reason::kInvalidField, "etag", "needs a session");
  }
  return CheckRequestId(head.request_id);
}

absl::Status CheckSessionOptions(const SessionOptions& options) {
  constexpr std::string_view kField = "session.display_name";
  const std::string_view name = options.display_name;
  if (name.size() > kMaxDisplayNameBytes) {
    return Invalid(reason::kInvalidField, kField,
                   Concat("has ", name.size(), " bytes; at most ", kMaxDisplayNameBytes));
  }
  SPOTD_RETURN_IF_ERROR(CheckUtf8(name, kField));
  if (options.ttl && options.expire_time_ms) {
    return Invalid(reason::kInvalidField, "session.ttl", "and expire_time exclude each other");
  }
  return CheckRequestId(options.request_id);
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

absl::Status StatusOf(CancelToken::Cause cause) {
  switch (cause) {
    case CancelToken::Cause::kClient:
      return MakeError(absl::StatusCode::kCancelled, "the call was cancelled",
                       {.reason = reason::kCancelled});
    case CancelToken::Cause::kAborted:
      return MakeError(absl::StatusCode::kCancelled, "the call was aborted by another",
                       {.reason = reason::kCallAborted});
    case CancelToken::Cause::kDrained:
      return MakeError(absl::StatusCode::kUnavailable,
                       "the server shut down before the call had come to its end",
                       {.reason = reason::kDraining});
    case CancelToken::Cause::kStalled:
      return MakeError(absl::StatusCode::kDeadlineExceeded,
                       "the client sent nothing for too long before the end of its input",
                       {.reason = reason::kUploadStalled});
    case CancelToken::Cause::kNone:
      break;
  }
  return absl::OkStatus();
}

}  // namespace spotd::engine
