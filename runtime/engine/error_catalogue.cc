#include "runtime/engine/error_catalogue.h"

#include <algorithm>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"

namespace spotd::engine {
namespace {

using Code = absl::StatusCode;

constexpr ReasonInfo kCatalogue[] = {
    {reason::kInvalidField, Code::kInvalidArgument, false, "field",
     "A field is missing, contradicts another or is out of its range.", "Correct the field."},
    {reason::kMalformedRequest, Code::kInvalidArgument, false, "type",
     "The bytes are not a message of the method's request type.",
     "Generate the client from this server's proto."},
    {reason::kInvalidUtf8, Code::kInvalidArgument, false, "",
     "Text is not UTF-8. Metadata has `field` or, for chunks joined, the first bad `byte`.",
     "Send UTF-8, or token ids."},
    {reason::kEmptyPrompt, Code::kInvalidArgument, false, "",
     "There is no token to append, or nothing to generate from.", "Send at least one token."},
    {reason::kTokenOutOfRange, Code::kInvalidArgument, false, "limit got",
     "A token id is outside the model's vocabulary; or text has a token that the tokenizer knows "
     "and the model has no row for.",
     "Use ids of this model (Tokenize)."},
    {reason::kInvalidSampling, Code::kInvalidArgument, false, "",
     "A sampling parameter is not a number or out of its range.", "Correct the field."},
    {reason::kInvalidPolicy, Code::kInvalidArgument, false, "",
     "A policy parameter is not a number or out of its range.", "Correct the field."},
    {reason::kTemplateRefused, Code::kInvalidArgument, false, "",
     "The model's chat template does not accept these messages.",
     "Read the message: it is the template's own (roles out of turn, say)."},
    {reason::kRequestIdReused, Code::kInvalidArgument, false, "session",
     "`request_id` belongs to another request, which has been answered.",
     "Use a new id for each new request."},
    {reason::kPromptTooLong, Code::kOutOfRange, false, "limit",
     "The input of one call has more bytes, or pieces, than the server takes.",
     "Send it in several Append calls; tokenise it in parts."},
    {reason::kReplyTooLong, Code::kOutOfRange, false, "limit got",
     "The reply might not fit one message of 16 MiB: a Complete asks for more tokens, with so many "
     "candidates and log-probabilities, than can be answered at once. Nothing was computed. Or "
     "what "
     "Tokenize or Detokenize made has more bytes.",
     "Ask for less at a time, or call Generate, which streams."},
    {reason::kContextOverflow, Code::kOutOfRange, false, "limit got",
     "Session and prompt together do not fit the context.", "Shorten, or rewind the session."},
    {reason::kPositionOutOfRange, Code::kOutOfRange, false, "limit got",
     "A rewind to beyond the session's end.", "Read the session's token_count."},
    {reason::kSessionNotFound, Code::kNotFound, false, "session",
     "The caller has no such session: never, no longer (deleted or expired), or another tenant's.",
     "Create it again from what the client has."},
    {reason::kModelNotFound, Code::kNotFound, false, "model",
     "The server runs another model; metadata names it.", "Call ListModels."},
    {reason::kTraceNotFound, Code::kNotFound, false, "session",
     "No reply of the session was generated with `record_trace`.", "Generate with it first."},
    {reason::kSessionBusy, Code::kAborted, false, "session",
     "Another call is writing to the session.", "Wait for that call to end, or Abort it."},
    {reason::kEtagMismatch, Code::kAborted, false, "session etag",
     "The session has changed since the client read it; metadata has its etag now.",
     "Read the session again and decide anew."},
    {reason::kSelectorMissing, Code::kFailedPrecondition, false, "",
     "The policy needs a server started with a selector.", "Choose quest, window or full."},
    {reason::kNoChatTemplate, Code::kFailedPrecondition, false, "",
     "The model has no chat template.", "Send text or tokens."},
    {reason::kPolicyNotAllowed, Code::kPermissionDenied, false, "",
     "The operator does not let clients choose this policy or budget.",
     "Stay within the bounds that the message names."},
    {reason::kTokenMissing, Code::kUnauthenticated, false, "",
     "The server wants a bearer token, and the call has none.",
     "Send the metadata \"authorization: Bearer TOKEN\"."},
    {reason::kTokenInvalid, Code::kUnauthenticated, false, "",
     "The bearer token is not one that the server knows, or no longer.", "Get a new token."},
    {reason::kCertificateUnusable, Code::kUnauthenticated, false, "",
     "The client's certificate names no tenant.", "Use a certificate with a common name."},
    {reason::kQueueFull, Code::kResourceExhausted, true, "limit",
     "As many requests, or prompt tokens, are queued as may be.", "Try again after the delay."},
    {reason::kServerBusy, Code::kResourceExhausted, true, "",
     "Too many calls are being prepared (parsed, tokenised), or there is no memory for one more.",
     "Try again after the delay."},
    {reason::kUploadLimit, Code::kResourceExhausted, true, "limit",
     "As many Append calls are sending their input as may at a time.",
     "Try again after the delay."},
    {reason::kKvExhausted, Code::kResourceExhausted, true, "",
     "The KV cache is full of running requests.", "Try again after the delay."},
    {reason::kDeadlineTooShort, Code::kResourceExhausted, true, "expected_ms",
     "The first token is expected only after the call's deadline.",
     "Try again later, or with a longer deadline."},
    {reason::kSessionLimit, Code::kResourceExhausted, true, "limit",
     "The server holds as many sessions as it may.", "Delete sessions, or try again later."},
    {reason::kTenantSessionLimit, Code::kResourceExhausted, true, "limit",
     "The caller holds as many sessions as it may.", "Delete sessions."},
    {reason::kTenantTokenLimit, Code::kResourceExhausted, true, "limit",
     "The caller's sessions, with what its requests add to them, hold as many tokens as they may. "
     "A "
     "reply that grows into the limit ends with this; what its session keeps is as with "
     "TENANT_KV_LIMIT.",
     "Delete or rewind sessions."},
    {reason::kTenantRequestLimit, Code::kResourceExhausted, true, "limit",
     "As many of the caller's requests are in the server as may be.",
     "Wait for some of them to end."},
    {reason::kTenantUploadLimit, Code::kResourceExhausted, true, "limit",
     "As many of the caller's Append calls are sending their input as may at a time.",
     "Wait for some of them to end."},
    {reason::kTenantKvLimit, Code::kResourceExhausted, true, "limit",
     "The caller's running requests hold as much of the KV cache as they may. A reply that grows "
     "into the limit ends with this, and its session keeps what was delivered, or nothing of it "
     "where the call had a request_id.",
     "Wait for some of them to end."},
    {reason::kDraining, Code::kUnavailable, false, "",
     "The server is shutting down, or did before the call had come to its end.",
     "Go to another server, or connect again."},
    {reason::kDeviceLost, Code::kUnavailable, false, "",
     "The server's GPU failed and needs a restart. The request is lost.",
     "Go to another server, or connect again once it is back."},
    {reason::kCancelled, Code::kCancelled, false, "",
     "The client cancelled or went away, or the server stopped while the call ran.", ""},
    {reason::kCallAborted, Code::kCancelled, false, "", "Somebody of the same tenant called Abort.",
     ""},
    {reason::kSessionDeleted, Code::kCancelled, false, "session",
     "The session was deleted under the call.", ""},
    {reason::kDeadlineExceeded, Code::kDeadlineExceeded, false, "",
     "The call's deadline passed while it ran.", "Continue the session with another call."},
    {reason::kUploadStalled, Code::kDeadlineExceeded, false, "",
     "An Append sent nothing for `--upload_timeout` before the end of its input. Nothing of it was "
     "appended.",
     "Send it again, and its pieces without long pauses."},
    {reason::kEngineFault, Code::kInternal, false, "",
     "A step failed. The request is lost, the session is not.",
     "Report it; the server's log has more."},
};

std::string Words(std::string_view keys) {
  std::string out;
  while (!keys.empty()) {
    const size_t space = std::min(keys.find(' '), keys.size());
    out += Concat(out.empty() ? "" : ", ", "`", keys.substr(0, space), "`");
    keys.remove_prefix(std::min(space + 1, keys.size()));
  }
  return out;
}

}  // namespace

std::span<const ReasonInfo> ErrorCatalogue() {
  return kCatalogue;
}

const ReasonInfo* FindReason(std::string_view reason) {
  for (const ReasonInfo& info : kCatalogue) {
    if (reason == info.reason) return &info;
  }
  return nullptr;
}

std::string ErrorReference() {
  std::string page = R"(# Errors

Every error of a spotd service is a gRPC status with `google.rpc.Status` details:

- `ErrorInfo`, always: domain `spotd.v1`, one of the reasons below, and facts of the message in `metadata`. Switch on the
  reason, never on the message.
- `BadRequest` where a field is at fault: its path in the request.
- `RetryInfo` where the same call may succeed after a while (marked *retry*): wait at least `retry_delay`, with jitter. Without
  it a call must not be sent again unchanged, but for UNAVAILABLE, which another server may take.

A call that carries a `request_id` may be sent again after any error, and after a lost connection: it happens once.
A request over 16 MiB is refused by the gRPC library itself: RESOURCE_EXHAUSTED without details. So is a reply over what the client's
library takes, 4 MiB in most languages unless it is told otherwise; the server's replies have at most 16 MiB.

This page is written from the table in `runtime/engine/error_catalogue.cc`; a test fails when it is not current.

| code | reason | | meaning | what to do | metadata |
|---|---|---|---|---|---|
)";
  for (const ReasonInfo& info : kCatalogue) {
    page += Concat("| ", absl::StatusCodeToString(info.code), " | `", info.reason, "` | ",
                   info.retry_info ? "retry" : "", " | ", info.meaning, " | ", info.what_to_do,
                   " | ", Words(info.metadata), " |\n");
  }
  return page;
}

}  // namespace spotd::engine
