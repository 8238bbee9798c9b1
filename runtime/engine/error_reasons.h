// The names of the reasons that an error can carry. Stable: clients switch on them.
//
// error_catalogue.cc says of each what it means, its code and what to do; docs/errors.md is that
// table.
#pragma once

namespace spotd::engine::reason {

inline constexpr char kSessionNotFound[] = "SESSION_NOT_FOUND";
inline constexpr char kModelNotFound[] = "MODEL_NOT_FOUND";
inline constexpr char kTraceNotFound[] = "TRACE_NOT_FOUND";
inline constexpr char kSessionBusy[] = "SESSION_BUSY";
inline constexpr char kEtagMismatch[] = "ETAG_MISMATCH";
inline constexpr char kInvalidField[] = "INVALID_FIELD";
inline constexpr char kMalformedRequest[] = "MALFORMED_REQUEST";
inline constexpr char kInvalidUtf8[] = "INVALID_UTF8";
inline constexpr char kEmptyPrompt[] = "EMPTY_PROMPT";
inline constexpr char kTokenOutOfRange[] = "TOKEN_OUT_OF_RANGE";
inline constexpr char kInvalidSampling[] = "INVALID_SAMPLING";
inline constexpr char kInvalidPolicy[] = "INVALID_POLICY";
inline constexpr char kTemplateRefused[] = "CHAT_TEMPLATE_REFUSED";
inline constexpr char kRequestIdReused[] = "REQUEST_ID_REUSED";
inline constexpr char kPromptTooLong[] = "PROMPT_TOO_LONG";
inline constexpr char kReplyTooLong[] = "REPLY_TOO_LONG";
inline constexpr char kContextOverflow[] = "CONTEXT_OVERFLOW";
inline constexpr char kPositionOutOfRange[] = "POSITION_OUT_OF_RANGE";
inline constexpr char kSelectorMissing[] = "SELECTOR_MISSING";
inline constexpr char kNoChatTemplate[] = "NO_CHAT_TEMPLATE";
inline constexpr char kPolicyNotAllowed[] = "POLICY_NOT_ALLOWED";
inline constexpr char kTokenMissing[] = "TOKEN_MISSING";
inline constexpr char kTokenInvalid[] = "TOKEN_INVALID";
inline constexpr char kCertificateUnusable[] = "CERTIFICATE_UNUSABLE";
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kServerBusy[] = "SERVER_BUSY";
inline constexpr char kUploadLimit[] = "UPLOAD_LIMIT";
inline constexpr char kUploadStalled[] = "UPLOAD_STALLED";
inline constexpr char kKvExhausted[] = "KV_EXHAUSTED";
inline constexpr char kDeadlineTooShort[] = "DEADLINE_TOO_SHORT";
inline constexpr char kSessionLimit[] = "SESSION_LIMIT";
inline constexpr char kTenantSessionLimit[] = "TENANT_SESSION_LIMIT";
inline constexpr char kTenantTokenLimit[] = "TENANT_TOKEN_LIMIT";
inline constexpr char kTenantRequestLimit[] = "TENANT_REQUEST_LIMIT";
inline constexpr char kTenantUploadLimit[] = "TENANT_UPLOAD_LIMIT";
inline constexpr char kTenantKvLimit[] = "TENANT_KV_LIMIT";
inline constexpr char kDraining[] = "DRAINING";
inline constexpr char kCancelled[] = "CANCELLED";
inline constexpr char kCallAborted[] = "CALL_ABORTED";
inline constexpr char kSessionDeleted[] = "SESSION_DELETED";
inline constexpr char kDeadlineExceeded[] = "DEADLINE_EXCEEDED";
inline constexpr char kEngineFault[] = "ENGINE_FAULT";
inline constexpr char kDeviceLost[] = "DEVICE_LOST";

}  // namespace spotd::engine::reason
