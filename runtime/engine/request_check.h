// Refuses requests that no state of the engine could serve, naming the field, by its path in
// spotd.v1, and the limit it breaks.
//
// Pure functions of their arguments: any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/model/policy.h"

namespace spotd::engine {

inline constexpr float kMaxTemperature = 100;
inline constexpr float kMaxPenalty = 100;  // of presence and frequency, either sign
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;
inline constexpr size_t kMaxStopTokens = 64;
inline constexpr int32_t kMaxReportBlocks = 1024;
inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr int32_t kMaxCandidates = 16;
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr float kMaxLogitBiasValue = 100;  // either sign
inline constexpr size_t kMaxDisplayNameBytes = 256;
inline constexpr size_t kMaxRequestIdBytes = 64;

// INVALID_ARGUMENT (INVALID_SAMPLING; TOKEN_OUT_OF_RANGE for stop tokens).
absl::Status CheckSampling(const Sampling& sampling, int32_t vocab);
// INVALID_ARGUMENT (INVALID_POLICY), FAILED_PRECONDITION (SELECTOR_MISSING).
absl::Status CheckPolicy(const model::Policy& policy, bool has_selector);
// PERMISSION_DENIED (POLICY_NOT_ALLOWED). Not for the server's own policy.
absl::Status CheckPolicyBounds(const model::Policy& policy, const PolicyBounds& bounds);
// INVALID_ARGUMENT (INVALID_FIELD), here and below.
absl::Status CheckReports(const GenerateRequest& request, int32_t max_running);
absl::Status CheckHead(const RequestHead& head);
absl::Status CheckSessionOptions(const SessionOptions& options);
// INVALID_ARGUMENT (TOKEN_OUT_OF_RANGE), naming the offending id and `field`.
absl::Status CheckTokens(std::span<const int32_t> tokens, int32_t vocab, std::string_view field);
// OUT_OF_RANGE (PROMPT_TOO_LONG) when the text of all inputs together exceeds the limit.
absl::Status CheckPromptBytes(std::span<const Input> inputs, size_t limit);
// OUT_OF_RANGE (CONTEXT_OVERFLOW) unless `tokens` fit into `limit`.
absl::Status CheckContext(int64_t tokens, int32_t limit);
// INVALID_ARGUMENT (INVALID_UTF8), naming the first bad byte and `field`.
absl::Status CheckUtf8(std::string_view text, std::string_view field);

// Why a call was ended from outside: CANCELLED (CANCELLED, CALL_ABORTED), UNAVAILABLE (DRAINING) or
// DEADLINE_EXCEEDED (UPLOAD_STALLED); OK while it was not.
absl::Status StatusOf(CancelToken::Cause cause);

}  // namespace spotd::engine
