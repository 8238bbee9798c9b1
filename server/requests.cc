#include "server/requests.h"

#include <cmath>
#include <limits>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/errors.h"
#include "server/replies.h"
#include "server/status_map.h"

namespace spotd::server {
namespace {

constexpr std::string_view kSessionPrefix = "sessions/";
constexpr int32_t kMaxReportBlocks = 1024;
constexpr int kMaxStopTexts = 16;
constexpr size_t kMaxStopTextBytes = 256;
constexpr int kMaxStopTokens = 64;
constexpr float kMaxTemperature = 100.0f;

// Written so that NaN fails.
absl::Status CheckRange(std::string_view field, double value, double min, double max,
                        std::string_view range) {
  if (value >= min && value <= max) return absl::OkStatus();
  return FieldError(field, Concat("must be in ", range, ", got ", value));
}

absl::Status CheckSampling(const v1::Sampling& sampling, int32_t vocab) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  constexpr double kSmallest = std::numeric_limits<float>::min();
  SPOTD_RETURN_IF_ERROR(
      CheckRange("sampling.temperature", sampling.temperature(), 0, kMaxTemperature, "[0, 100]"));
  SPOTD_RETURN_IF_ERROR(
      CheckRange("sampling.top_k", sampling.top_k(), 0, kLargest, "[0, vocabulary size]"));
  if (sampling.has_top_p()) {
    SPOTD_RETURN_IF_ERROR(CheckRange("sampling.top_p", sampling.top_p(), kSmallest, 1, "(0, 1]"));
  }
  SPOTD_RETURN_IF_ERROR(CheckRange("sampling.min_p", sampling.min_p(), 0, 1, "[0, 1]"));
  if (sampling.has_repetition_penalty()) {
    SPOTD_RETURN_IF_ERROR(CheckRange("sampling.repetition_penalty", sampling.repetition_penalty(),
                                     kSmallest, kLargest, "(0, infinity)"));
  }
  SPOTD_RETURN_IF_ERROR(CheckRange("sampling.presence_penalty", sampling.presence_penalty(),
                                   -kLargest, kLargest, "the finite numbers"));
  SPOTD_RETURN_IF_ERROR(CheckRange("sampling.frequency_penalty", sampling.frequency_penalty(),
                                   -kLargest, kLargest, "the finite numbers"));
  if (sampling.has_max_tokens()) {
    SPOTD_RETURN_IF_ERROR(
        CheckRange("sampling.max_tokens", sampling.max_tokens(), 1, kLargest, "[1, infinity)"));
  }
  for (int32_t id : sampling.stop_token_ids()) {
    SPOTD_RETURN_IF_ERROR(
        CheckRange("sampling.stop_token_ids", id, 0, vocab - 1, Concat("[0, ", vocab - 1, "]")));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const v1::Sampling& sampling) {
  if (sampling.stop_size() > kMaxStopTexts) {
    return FieldError("sampling.stop",
                      Concat("may hold ", kMaxStopTexts, " texts, got ", sampling.stop_size()));
  }
  if (sampling.stop_token_ids_size() > kMaxStopTokens) {
    return FieldError("sampling.stop_token_ids", Concat("may hold ", kMaxStopTokens, " ids, got ",
                                                        sampling.stop_token_ids_size()));
  }
  for (const std::string& text : sampling.stop()) {
    if (text.empty() || text.size() > kMaxStopTextBytes) {
      return FieldError("sampling.stop", Concat("texts have 1 to ", kMaxStopTextBytes,
                                                " bytes, one has ", text.size()));
    }
  }
  return absl::OkStatus();
}

template <typename Request>
absl::StatusOr<int32_t> ReportBlocks(const Request& request) {
  SPOTD_RETURN_IF_ERROR(
      CheckRange("top_blocks", request.top_blocks(), 0, kMaxReportBlocks, "[0, 1024]"));
  return request.top_blocks();
}

void Overlay(const v1::Policy& policy, model::Policy* out) {
  if (policy.has_p_residual()) out->p_residual = policy.p_residual();
  if (policy.has_p_total()) out->p_total = policy.p_total();
  if (policy.has_fraction()) out->fraction = policy.fraction();
  if (policy.has_k_tokens()) out->k_tokens = policy.k_tokens();
  if (policy.has_sink_tokens()) out->sink_tokens = policy.sink_tokens();
  if (policy.has_recency_tokens()) out->recency_tokens = policy.recency_tokens();
  if (policy.has_k_min_tokens()) out->k_min_tokens = policy.k_min_tokens();
  if (policy.has_k_max_tokens()) out->k_max_tokens = policy.k_max_tokens();
  if (policy.has_dense_below_tokens()) out->dense_below_tokens = policy.dense_below_tokens();
}

}  // namespace

absl::StatusOr<std::string> SessionId(const std::string& name, std::string_view field) {
  if (name.empty()) return FieldError(field, "is required");
  const std::string_view view = name;
  if (view.substr(0, kSessionPrefix.size()) != kSessionPrefix ||
      view.size() == kSessionPrefix.size()) {
    return FieldError(field, "must have the form sessions/{id}");
  }
  return name.substr(kSessionPrefix.size());
}

absl::StatusOr<model::Policy> OverlayPolicy(const v1::Policy& policy, const model::Policy& base,
                                            const engine::Engine& engine, std::string_view field) {
  model::Policy result = base;
  if (policy.kind() != v1::POLICY_KIND_UNSPECIFIED) {
    const std::optional<model::PolicyKind> kind = FromProto(policy.kind());
    if (!kind.has_value()) return FieldError(Concat(field, ".kind"), "is not a known policy");
    result.kind = *kind;
  }
  Overlay(policy, &result);
  if (const absl::Status status = result.Validate(); !status.ok()) {
    return FieldError(field, Concat("is not valid: ", status.message()));
  }
  const bool needs_selector =
      result.kind == model::PolicyKind::kDistilled || result.kind == model::PolicyKind::kTopK;
  if (needs_selector && !engine.has_selector()) {
    return engine::MakeError(absl::StatusCode::kFailedPrecondition,
                             Concat(field, ".kind: policy ", model::PolicyName(result.kind),
                                    " needs a server started with --selector"),
                             {.reason = "NO_SELECTOR",
                              .field = Concat(field, ".kind"),
                              .metadata = {},
                              .retry_after = {}});
  }
  return result;
}

absl::StatusOr<engine::Sampling> ToSampling(const v1::Sampling& sampling, int32_t vocab) {
  SPOTD_RETURN_IF_ERROR(CheckSampling(sampling, vocab));
  SPOTD_RETURN_IF_ERROR(CheckStops(sampling));
  engine::Sampling out;
  out.params = {.temperature = sampling.temperature(),
                .top_p = sampling.has_top_p() ? sampling.top_p() : 1.0f,
                .min_p = sampling.min_p(),
                .repetition_penalty =
                    sampling.has_repetition_penalty() ? sampling.repetition_penalty() : 1.0f,
                .presence_penalty = sampling.presence_penalty(),
                .frequency_penalty = sampling.frequency_penalty(),
                .top_k = sampling.top_k(),
                .seed = 0,
                .draw = 0};
  if (sampling.has_seed()) out.seed = sampling.seed();
  out.max_tokens = sampling.max_tokens();
  out.stop_strings.assign(sampling.stop().begin(), sampling.stop().end());
  out.stop_tokens.assign(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  out.ignore_eos = sampling.ignore_eos();
  return out;
}

absl::StatusOr<int32_t> ToReportBlocks(const v1::GenerateRequest& request) {
  return ReportBlocks(request);
}
absl::StatusOr<int32_t> ToReportBlocks(const v1::CompleteRequest& request) {
  return ReportBlocks(request);
}

absl::Status InputCollector::Count(size_t bytes) {
  bytes_ += bytes;
  if (bytes_ <= max_bytes_) return absl::OkStatus();
  return engine::MakeError(absl::StatusCode::kOutOfRange,
                           Concat("the input has more than ", max_bytes_, " bytes"),
                           {.reason = kPromptTooLarge,
                            .field = "",
                            .metadata = {{"limit_bytes", Concat(max_bytes_)}},
                            .retry_after = {}});
}

absl::Status InputCollector::AddMessages(const v1::MessageList& messages, std::string_view field) {
  if (messages.messages_size() == 0) return FieldError(Concat(field, ".messages"), "is empty");
  engine::MessageInput out;
  for (const v1::ChatMessage& message : messages.messages()) {
    if (message.role().empty()) return FieldError(Concat(field, ".messages.role"), "is required");
    SPOTD_RETURN_IF_ERROR(Count(message.role().size() + message.content().size()));
    out.push_back({message.role(), message.content()});
  }
  inputs_.emplace_back(std::move(out));
  return absl::OkStatus();
}

absl::Status InputCollector::Add(const v1::Input& input, std::string_view field) {
  const bool was_chunk = std::exchange(in_chunk_, input.has_text_chunk());
  switch (input.content_case()) {
    case v1::Input::kText:
      SPOTD_RETURN_IF_ERROR(Count(input.text().size()));
      inputs_.emplace_back(engine::TextInput{input.text(), input.parse_special()});
      return absl::OkStatus();
    case v1::Input::kTextChunk:
      SPOTD_RETURN_IF_ERROR(Count(input.text_chunk().size()));
      if (was_chunk) {
        std::get<engine::TextInput>(inputs_.back()).text += input.text_chunk();
      } else {
        inputs_.emplace_back(engine::TextInput{input.text_chunk(), input.parse_special()});
      }
      return absl::OkStatus();
    case v1::Input::kTokens:
      SPOTD_RETURN_IF_ERROR(Count(input.tokens().ids_size() * sizeof(int32_t)));
      inputs_.emplace_back(
          engine::TokenInput(input.tokens().ids().begin(), input.tokens().ids().end()));
      return absl::OkStatus();
    case v1::Input::kMessages:
      return AddMessages(input.messages(), field);
    case v1::Input::CONTENT_NOT_SET:
      break;
  }
  return FieldError(field, "has no content: set text, text_chunk, tokens or messages");
}

}  // namespace spotd::server
