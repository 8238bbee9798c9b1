#include "runtime/engine/errors.h"

#include <utility>

#include "absl/strings/cord.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/out_of_memory.h"

namespace spotd::engine {
namespace {

// A status carries bytes by type URL. The details are written as length-prefixed strings, each pair
// "key, value".
constexpr char kPayloadUrl[] = "spotd.engine/error-details";
constexpr char kReasonKey[] = "r";
constexpr char kFieldKey[] = "f";
constexpr char kRetryKey[] = "t";
constexpr char kMetadataKey[] = "m";  // followed by the entry's own key

void Put(std::string* out, std::string_view text) {
  *out += std::to_string(text.size());
  *out += ':';
  *out += text;
}

// Takes one string off the front; empty at the end.
std::string Take(std::string_view* in) {
  const size_t colon = in->find(':');
  if (colon == std::string_view::npos) return {};
  const size_t size = std::stoul(std::string(in->substr(0, colon)));
  std::string text(in->substr(colon + 1, size));
  in->remove_prefix(colon + 1 + size);
  return text;
}

std::string Encode(const ErrorDetails& details) {
  std::string out;
  Put(&out, kReasonKey);
  Put(&out, details.reason);
  if (!details.field.empty()) {
    Put(&out, kFieldKey);
    Put(&out, details.field);
  }
  if (details.retry_after) {
    Put(&out, kRetryKey);
    Put(&out, std::to_string(details.retry_after->count()));
  }
  for (const auto& [key, value] : details.metadata) {
    Put(&out, kMetadataKey + key);
    Put(&out, value);
  }
  return out;
}

// Of a status that nobody gave details.
const char* ReasonOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
      return reason::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return reason::kDeadlineExceeded;
    case absl::StatusCode::kInvalidArgument:
      return reason::kInvalidField;
    default:
      return reason::kEngineFault;
  }
}

ErrorDetails Decode(std::string_view in) {
  ErrorDetails details;
  while (!in.empty()) {
    const std::string key = Take(&in);
    std::string value = Take(&in);
    if (key == kReasonKey) {
      details.reason = std::move(value);
    } else if (key == kFieldKey) {
      details.field = std::move(value);
    } else if (key == kRetryKey) {
      details.retry_after = std::chrono::milliseconds(std::stoll(value));
    } else {
      details.metadata[key.substr(1)] = std::move(value);
    }
  }
  return details;
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, std::string_view message,
                       const ErrorDetails& details) {
  absl::Status status(code, absl::string_view(message.data(), message.size()));
  status.SetPayload(kPayloadUrl, absl::Cord(Encode(details)));
  return status;
}

ErrorDetails GetErrorDetails(const absl::Status& status) {
  if (const auto payload = status.GetPayload(kPayloadUrl)) return Decode(std::string(*payload));
  ErrorDetails details;
  details.reason = ReasonOf(status.code());
  return details;
}

absl::Status OutOfMemory() {
  return MakeError(absl::StatusCode::kResourceExhausted, "there is no memory for this call",
                   {.reason = reason::kServerBusy, .retry_after = std::chrono::seconds(1)});
}

}  // namespace spotd::engine
