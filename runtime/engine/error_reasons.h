// The catalogue of reasons: every `reason` that an error of the engine can carry. Stable: clients
// switch on them.
#pragma once

namespace spotd::engine::reason {

// NOT_FOUND
inline constexpr char kSessionNotFound[] = "SESSION_NOT_FOUND";
// ABORTED: another call is writing to the session; try again when it has ended.
inline constexpr char kSessionBusy[] = "SESSION_BUSY";
// INVALID_ARGUMENT, with `field`
inline constexpr char kEmptyPrompt[] = "EMPTY_PROMPT";
inline constexpr char kTokenOutOfRange[] = "TOKEN_OUT_OF_RANGE";
inline constexpr char kInvalidUtf8[] = "INVALID_UTF8";
inline constexpr char kInvalidSampling[] = "INVALID_SAMPLING";
inline constexpr char kInvalidPolicy[] = "INVALID_POLICY";
inline constexpr char kInvalidField[] = "INVALID_FIELD";
inline constexpr char kTemplateRefused[] =
    "CHAT_TEMPLATE_REFUSED";  // the checkpoint's template raised an error
// OUT_OF_RANGE, with metadata `limit` and `got`
inline constexpr char kPromptTooLong[] = "PROMPT_TOO_LONG";  // bytes, before tokenising
inline constexpr char kContextOverflow[] =
    "CONTEXT_OVERFLOW";  // tokens of session and prompt together
inline constexpr char kPositionOutOfRange[] =
    "POSITION_OUT_OF_RANGE";  // rewind beyond the session's end
// FAILED_PRECONDITION
inline constexpr char kSelectorMissing[] = "SELECTOR_MISSING";
inline constexpr char kNoChatTemplate[] = "NO_CHAT_TEMPLATE";
// RESOURCE_EXHAUSTED, with retry_after
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kKvExhausted[] = "KV_EXHAUSTED";
inline constexpr char kSessionLimit[] = "SESSION_LIMIT";
// UNAVAILABLE: the server is shutting down
inline constexpr char kDraining[] = "DRAINING";
// CANCELLED, DEADLINE_EXCEEDED
inline constexpr char kCancelled[] = "CANCELLED";
inline constexpr char kSessionDeleted[] =
    "SESSION_DELETED";  // CANCELLED: the session was deleted under the call
inline constexpr char kDeadlineExceeded[] = "DEADLINE_EXCEEDED";
// INTERNAL: a step failed; the request is lost, the session is not
inline constexpr char kEngineFault[] = "ENGINE_FAULT";

}  // namespace spotd::engine::reason
