#include "server/requests.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/request_check.h"
#include "server/replies.h"
#include "server/status_map.h"

namespace spotd::server {
namespace {

constexpr std::string_view kSessionPrefix = "sessions/";
// Far more than the server's own ids have: what clients send is repeated in logs and errors.
constexpr size_t kMaxSessionIdBytes = 128;

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
  const bool has_id = name.starts_with(kSessionPrefix) && name.size() > kSessionPrefix.size();
  if (!has_id || name.size() > kSessionPrefix.size() + kMaxSessionIdBytes) {
    return FieldError(field, Concat("must have the form sessions/{id}, with an id of at most ",
                                    kMaxSessionIdBytes, " bytes"));
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
  absl::Status status = engine::CheckPolicy(result, engine.has_selector());
  if (status.ok()) status = engine::CheckPolicyBounds(result, engine.options().policy_bounds);
  if (!status.ok()) {
    engine::ErrorDetails details = engine::GetErrorDetails(status);
    details.field = Concat(field, ".", details.field.substr(details.field.rfind('.') + 1));
    return engine::MakeError(status.code(), std::string(status.message()), details);
  }
  return result;
}

absl::StatusOr<engine::Sampling> ToSampling(const v1::Sampling& sampling) {
  // The engine reads 0 as "no limit"; a client that writes 0 means something else.
  if (sampling.has_max_tokens() && sampling.max_tokens() < 1) {
    return FieldError("sampling.max_tokens",
                      Concat("is ", sampling.max_tokens(), "; it must be at least 1"));
  }
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
  out.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());
  std::sort(out.logit_bias.begin(), out.logit_bias.end());
  out.max_tokens = sampling.max_tokens();
  out.stop_strings.assign(sampling.stop().begin(), sampling.stop().end());
  out.stop_tokens.assign(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  out.ignore_eos = sampling.ignore_eos();
  return out;
}

absl::StatusOr<std::chrono::milliseconds> ToMilliseconds(const google::protobuf::Duration& value,
                                                         std::string_view field) {
  constexpr int64_t kMaxSeconds = 315'576'000'000;  // of protobuf
  if (value.seconds() < 0 || value.seconds() > kMaxSeconds || value.nanos() < 0 ||
      value.nanos() > 999'999'999) {
    return FieldError(field, "is not a duration from 0 on");
  }
  return std::chrono::milliseconds(value.seconds() * 1000 + value.nanos() / 1'000'000);
}

absl::StatusOr<int64_t> ToUnixMilliseconds(const google::protobuf::Timestamp& value,
                                           std::string_view field) {
  constexpr int64_t kMaxSeconds = 253'402'300'799;  // the end of the year 9999
  if (value.seconds() < 0 || value.seconds() > kMaxSeconds || value.nanos() < 0 ||
      value.nanos() > 999'999'999) {
    return FieldError(field, "is not a time from 1970 on");
  }
  return value.seconds() * 1000 + value.nanos() / 1'000'000;
}

namespace {

// FNV-1a over fields that are told apart by their length.
class Hash {
 public:
  void Add(std::string_view bytes) {
    Add(bytes.size());
    for (const char c : bytes) Mix(static_cast<unsigned char>(c));
  }
  void Add(uint64_t value) {
    for (int i = 0; i < 8; ++i, value >>= 8) Mix(value & 255);
  }
  uint64_t value() const { return value_; }

 private:
  void Mix(uint64_t byte) { value_ = (value_ ^ byte) * 1099511628211u; }
  uint64_t value_ = 14695981039346656037u;
};

void Add(const engine::Input& input, Hash* hash) {
  hash->Add(input.index());
  if (const auto* text = std::get_if<engine::TextInput>(&input)) {
    hash->Add(text->text);
    hash->Add(static_cast<uint64_t>(text->parse_special));
  } else if (const auto* tokens = std::get_if<engine::TokenInput>(&input)) {
    hash->Add(tokens->size());
    for (const int32_t token : *tokens) hash->Add(static_cast<uint32_t>(token));
  } else {
    const auto& messages = std::get<engine::MessageInput>(input);
    hash->Add(messages.size());
    for (const text::ChatMessage& message : messages) {
      hash->Add(message.role);
      hash->Add(message.content);
    }
  }
}

}  // namespace

uint64_t Fingerprint(const std::vector<engine::Input>& inputs) {
  Hash hash;
  for (const engine::Input& input : inputs) Add(input, &hash);
  return hash.value();
}

uint64_t Fingerprint(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream out(&bytes);
    google::protobuf::io::CodedOutputStream coded(&out);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  Hash hash;
  hash.Add(message.GetDescriptor()->full_name());
  hash.Add(bytes);
  return hash.value();
}

namespace {

absl::Status TooLong(std::string_view field, size_t limit, const char* unit) {
  return engine::MakeError(absl::StatusCode::kOutOfRange,
                           Concat(field, " has more than ", limit, " ", unit),
                           {.reason = engine::reason::kPromptTooLong,
                            .field = std::string(field),
                            .metadata = {{"limit", Concat(limit)}},
                            .retry_after = {}});
}

}  // namespace

absl::Status CheckBytes(size_t bytes, size_t limit, std::string_view field) {
  return bytes <= limit ? absl::OkStatus() : TooLong(field, limit, "bytes");
}

absl::Status InputCollector::Count(size_t bytes, std::string_view field) {
  bytes_ += bytes;
  return CheckBytes(bytes_, max_bytes_, field);
}

absl::Status InputCollector::CountPiece(std::string_view field) {
  return ++pieces_ <= kMaxPieces ? absl::OkStatus()
                                 : TooLong(field, kMaxPieces, "pieces and messages");
}

absl::Status InputCollector::AddMessages(const v1::MessageList& messages, std::string_view field) {
  if (messages.messages_size() == 0) return FieldError(Concat(field, ".messages"), "is empty");
  engine::MessageInput out;
  for (const v1::ChatMessage& message : messages.messages()) {
    if (message.role().empty()) return FieldError(Concat(field, ".messages.role"), "is required");
    SPOTD_RETURN_IF_ERROR(CountPiece(field));
    SPOTD_RETURN_IF_ERROR(Count(message.role().size() + message.content().size(), field));
    out.push_back({message.role(), message.content()});
  }
  inputs_.emplace_back(std::move(out));
  return absl::OkStatus();
}

absl::Status InputCollector::Add(const v1::Input& input, std::string_view field) {
  const bool was_chunk = std::exchange(in_chunk_, input.has_text_chunk());
  if (!was_chunk || !in_chunk_) SPOTD_RETURN_IF_ERROR(CountPiece(field));
  switch (input.content_case()) {
    case v1::Input::kText:
      SPOTD_RETURN_IF_ERROR(Count(input.text().size(), field));
      inputs_.emplace_back(engine::TextInput{input.text(), input.parse_special()});
      return absl::OkStatus();
    case v1::Input::kTextChunk:
      SPOTD_RETURN_IF_ERROR(Count(input.text_chunk().size(), field));
      if (was_chunk) {
        std::get<engine::TextInput>(inputs_.back()).text += input.text_chunk();
      } else {
        inputs_.emplace_back(engine::TextInput{input.text_chunk(), input.parse_special()});
      }
      return absl::OkStatus();
    case v1::Input::kTokens:
      SPOTD_RETURN_IF_ERROR(Count(input.tokens().ids_size() * sizeof(int32_t), field));
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
