#include "server/call.h"

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <random>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "server/log.h"
#include "server/status_map.h"

namespace spotd::server {
namespace {

constexpr size_t kMaxRequestId = 128;

std::string NewRequestId() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  constexpr char kHex[] = "0123456789abcdef";
  std::string id;
  for (int i = 0; i < 2; ++i) {
    for (uint64_t bits = random(), n = 0; n < 16; ++n, bits >>= 4) id += kHex[bits & 15];
  }
  return id;
}

bool IsPrintable(std::string_view text) {
  for (unsigned char c : text) {
    if (c <= ' ' || c > '~') return false;
  }
  return true;
}

// The first value of a key; empty where there is none.
std::string_view MetadataOf(const grpc::CallbackServerContext& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

std::string RequestIdOf(const grpc::CallbackServerContext& context) {
  const std::string_view id = MetadataOf(context, "x-request-id");
  if (id.empty() || id.size() > kMaxRequestId || !IsPrintable(id)) return NewRequestId();
  return std::string(id);
}

absl::StatusOr<Identity> Identify(const IdentityProvider* provider,
                                  const grpc::CallbackServerContext& context) {
  if (provider == nullptr) return Identity();
  return provider->Identify(context);
}

// protobuf reports which string field is not UTF-8 only through its log; this catches it for the
// parse of this thread.
thread_local std::string* captured_log = nullptr;

void CaptureProtobufLog(google::protobuf::LogLevel level, const char* file, int line,
                        const std::string& message) {
  if (captured_log != nullptr) {
    *captured_log += message;
  } else {
    Log(level >= google::protobuf::LOGLEVEL_ERROR ? LogLevel::kError : LogLevel::kWarning, message,
        {{"file", file}, {"line", Concat(line)}});
  }
}

bool ParseCapturingLog(grpc::ByteBuffer* bytes, google::protobuf::Message* message,
                       std::string* log) {
  [[maybe_unused]] static const auto previous =
      google::protobuf::SetLogHandler(&CaptureProtobufLog);
  captured_log = log;
  grpc::ProtoBufferReader reader(bytes);
  const bool ok = reader.status().ok() && message->ParseFromZeroCopyStream(&reader);
  captured_log = nullptr;
  return ok;
}

// "String field 'spotd.v1.Input.text' contains invalid ..." -> "spotd.v1.Input.text".
std::string FieldInLog(const std::string& log) {
  const size_t begin = log.find('\'');
  const size_t end = begin == log.npos ? log.npos : log.find('\'', begin + 1);
  return end == log.npos ? "" : log.substr(begin + 1, end - begin - 1);
}

}  // namespace

Call::Call(const ServiceContext& services, std::string_view method,
           grpc::CallbackServerContext* context)
    : metrics_(services.metrics),
      method_(method),
      context_(context),
      request_id_(RequestIdOf(*context)),
      trace_(ParseTraceParent(MetadataOf(*context, "traceparent"))),
      identity_(Identify(services.identity, *context)),
      counted_(metrics_->CallStarted()) {
  context_->AddInitialMetadata("x-request-id", request_id_);
}

Call::~Call() {
  metrics_->CallEnded(counted_);
}

void Call::Announce(RunningCalls* calls, std::shared_ptr<engine::CancelToken> cancel,
                    std::function<void()> on_end) {
  announced_ = calls->Add({tenant(), request_id_, session_}, std::move(cancel), std::move(on_end));
}

std::optional<engine::Clock::time_point> Call::deadline() const {
  const auto deadline = context_->deadline();
  const auto now = std::chrono::system_clock::now();
  constexpr auto kForEver = std::chrono::hours(24 * 365);
  if (deadline - now > kForEver) return std::nullopt;
  return engine::Clock::now() + (deadline - now);
}

grpc::Status Call::Finish(const absl::Status& status, const engine::GenerateResult* result) {
  const std::string code = CodeName(status.code());
  const std::string finish(result == nullptr ? "" : FinishReasonName(result->finish));
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start_;
  std::string reason;
  if (!status.ok()) {
    reason = engine::GetErrorDetails(status).reason;
    if (status.code() == absl::StatusCode::kResourceExhausted ||
        status.code() == absl::StatusCode::kUnavailable) {
      metrics_->CountRejected(reason);
    }
  }
  metrics_->Count({std::string(method_), code, finish, reason});
  Log(LogLevel::kInfo, "call",
      {{"method", std::string(method_)},
       {"code", code},
       {"reason", reason},
       {"request_id", request_id_},
       {"trace_id", trace_.has_value() ? trace_->trace_id : ""},
       {"parent_id", trace_.has_value() ? trace_->parent_id : ""},
       {"tenant", identity_.ok() ? identity_->tenant : ""},
       {"session", session_},
       {"finish_reason", finish},
       {"prompt_tokens", result == nullptr ? "" : Concat(result->usage.prompt_tokens)},
       {"generated_tokens", result == nullptr ? "" : Concat(result->usage.generated_tokens)},
       {"ms", Concat(elapsed.count())}});
  announced_ = {};  // before the client knows: nothing is left to end
  return ToGrpcStatus(status);
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::ByteBuffer copy(bytes);  // shares the slices
  std::string log;
  if (ParseCapturingLog(&copy, message, &log)) return absl::OkStatus();
  const std::string& type = message->GetDescriptor()->full_name();
  if (log.find("UTF-8") != log.npos) {
    const std::string field = FieldInLog(log);
    return engine::MakeError(absl::StatusCode::kInvalidArgument,
                             Concat(field, " is not valid UTF-8"),
                             {.reason = engine::reason::kInvalidUtf8,
                              .field = field,
                              .metadata = {{"field", field}},
                              .retry_after = {}});
  }
  return engine::MakeError(absl::StatusCode::kInvalidArgument, Concat("not a valid ", type),
                           {.reason = engine::reason::kMalformedRequest,
                            .field = "",
                            .metadata = {{"type", type}},
                            .retry_after = {}});
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &bytes, &own);
  return bytes;
}

std::string_view FinishReasonName(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      break;
    case engine::FinishReason::kStopToken:
      return "stop_token";
    case engine::FinishReason::kStopString:
      return "stop_text";
    case engine::FinishReason::kMaxTokens:
      return "max_tokens";
    case engine::FinishReason::kContextFull:
      return "context_full";
  }
  return "";
}

}  // namespace spotd::server
