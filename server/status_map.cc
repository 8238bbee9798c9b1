#include "server/status_map.h"

#include <grpcpp/support/status.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "server/time_util.h"

namespace spotd::server {
namespace {

// An error travels in HTTP/2 trailers, twice and encoded, and clients refuse more than 8 KiB of
// these. What it quotes of a request may be of any length.
constexpr size_t kMaxMessageBytes = 512;
constexpr size_t kMaxValueBytes = 128;

// The beginning of valid UTF-8, cut between two characters.
std::string Shortened(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return Concat(text.substr(0, end), "...");
}

}  // namespace

absl::Status FieldError(std::string_view field, std::string_view problem) {
  return engine::MakeError(absl::StatusCode::kInvalidArgument, Concat(field, " ", problem),
                           {.reason = engine::reason::kInvalidField,
                            .field = std::string(field),
                            .metadata = {{"field", std::string(field)}},
                            .retry_after = {}});
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const engine::ErrorDetails details = engine::GetErrorDetails(status);
  const std::string field = Shortened(details.field, kMaxValueBytes);
  const std::string message = Shortened(
      std::string_view(status.message().data(), status.message().size()), kMaxMessageBytes);

  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(message);

  google::rpc::ErrorInfo info;
  info.set_reason(details.reason);
  info.set_domain(std::string(kErrorDomain));
  for (const auto& [key, value] : details.metadata) {
    (*info.mutable_metadata())[key] = Shortened(value, kMaxValueBytes);
  }
  if (!field.empty()) (*info.mutable_metadata())["field"] = field;
  rich.add_details()->PackFrom(info);

  if (!field.empty()) {
    google::rpc::BadRequest bad_request;
    google::rpc::BadRequest::FieldViolation* violation = bad_request.add_field_violations();
    violation->set_field(field);
    violation->set_description(message);
    rich.add_details()->PackFrom(bad_request);
  }
  if (details.retry_after.has_value()) {
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() = ToDuration(*details.retry_after);
    rich.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      rich.SerializeAsString());
}

std::string CodeName(absl::StatusCode code) {
  return absl::StatusCodeToString(code);
}

}  // namespace spotd::server
