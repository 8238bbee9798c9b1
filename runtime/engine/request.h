// What a client asks of the engine, and how the engine answers: the vocabulary between `server` and
// `runtime`.
//
// Plain data; no gRPC, no protobuf. A request is immutable once submitted.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/logprobs.h"
#include "runtime/engine/tenant.h"
#include "runtime/model/policy.h"
#include "runtime/model/transformer.h"
#include "runtime/text/chat_template.h"

namespace spotd::engine {

using Clock = std::chrono::steady_clock;

// Text is tokenised as plain text: control tokens written in it stay text unless `parse_special`.
struct TextInput {
  std::string text;
  bool parse_special = false;
};
using TokenInput = std::vector<int32_t>;
// Messages continue the session's conversation: the chat template is rendered for the whole of it
// and what is new is appended.
using MessageInput = std::vector<text::ChatMessage>;
using Input = std::variant<TextInput, TokenInput, MessageInput>;

struct Sampling {
  // `seed` and `draw` are filled by the engine. As given here: greedy, everything else off.
  kernels::SamplingParams params = {.temperature = 0,
                                    .top_p = 1,
                                    .min_p = 0,
                                    .repetition_penalty = 1,
                                    .presence_penalty = 0,
                                    .frequency_penalty = 0,
                                    .top_k = 0,
                                    .seed = 0,
                                    .draw = 0};
  std::optional<uint64_t> seed;  // drawn at random when absent, and reported
  int32_t max_tokens = 0;        // 0 = as many as the context allows
  std::vector<std::string> stop_strings;
  std::vector<int32_t> stop_tokens;
  std::vector<std::pair<int32_t, float>> logit_bias;  // token, what to add to its logit
  bool ignore_eos = false;
};

// The client's call. The engine looks at it in each step; whoever holds the call sets it. The first
// cause counts. Thread-safe.
class CancelToken {
 public:
  enum class Cause : uint8_t { kNone, kClient, kAborted, kDrained, kStalled };
  void Cancel() { Set(Cause::kClient); }
  // By someone else than the caller.
  void Abort() { Set(Cause::kAborted); }
  // By a server that shuts down and waits no longer.
  void Drain() { Set(Cause::kDrained); }
  // By a server that waits no longer for the rest of the client's input.
  void Stall() { Set(Cause::kStalled); }
  Cause cause() const { return cause_.load(std::memory_order_relaxed); }
  bool cancelled() const { return cause() != Cause::kNone; }

 private:
  void Set(Cause cause) {
    Cause none = Cause::kNone;
    cause_.compare_exchange_strong(none, cause, std::memory_order_relaxed);
  }
  std::atomic<Cause> cause_{Cause::kNone};
};

enum class FinishReason : uint8_t { kNone, kStopToken, kStopString, kMaxTokens, kContextFull };

// Where a request's time went. All from one monotonic clock, in seconds.
struct Timings {
  double queue = 0;    // submitted -> first scheduled
  double prefill = 0;  // first scheduled -> prompt in the cache
  double ttft = 0;     // submitted -> first token
  double decode = 0;   // first token -> last token
  double total = 0;    // submitted -> finished
};

// prompt_tokens == computed_tokens + session_tokens + prefix_tokens + restored_tokens, always. An
// Append's prompt is the session with what it appended; its newest token counts as computed, though
// its KV is written when it is decoded. What a preempted request computes a second time counts
// once, as what it was the first time.
struct Usage {
  int32_t prompt_tokens = 0;     // the context the first generated token saw
  int32_t computed_tokens = 0;   // of these, computed by this request
  int32_t session_tokens = 0;    // of these, already in the session's cache
  int32_t prefix_tokens = 0;     // of these, found by content: computed before for the tenant
  int32_t restored_tokens = 0;   // of these, computed again: the session had lost their KV
  int32_t generated_tokens = 0;  // an end-of-sequence token included
};

// Sparsity of one request, summed over its decode steps.
struct RequestSparsity {
  model::RowSparsity sum;  // counts and bytes; the means below are over sparse steps
  int32_t steps = 0;
  int32_t dense_steps = 0;
  double mean_covered_mass = 1.0;
  double mean_selected_tokens = 0;
  // Over the steps of which one layer was also computed densely.
  int32_t audited_steps = 0;
  double mean_recalled_mass = 1.0;  // true mass of what was read
  double mean_output_error = 0;     // of the layer's output, relative
  bool dense_by_audit = false;      // the session fell under the floor and decodes densely now
  // Share of steps x layers that read each block of the context, for "where was the answer read
  // from": (block index, share), largest first, over the steps that were sparse; sinks, recency and
  // the newest 256 tokens (or an eighth of the context, if that is less) left out. Filled when
  // GenerateRequest::report_blocks > 0.
  std::vector<std::pair<int32_t, float>> top_blocks;
};

struct TokenEvent {
  int32_t candidate = 0;  // which of several replies
  int32_t token = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;  // the likeliest tokens, as many as were asked for
  std::string text;  // text completed by this token: valid UTF-8, may be empty while a character or
                     // stop string is open
  model::RowSparsity sparsity;
};

// One of several replies.
struct CandidateResult {
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;
  int32_t generated_tokens = 0;
  uint64_t seed = 0;
};

// With several candidates: `usage.generated_tokens` is their sum, the rest is of the first.
struct GenerateResult {
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;  // the one that matched
  Usage usage;
  Timings timings;
  RequestSparsity sparsity;
  uint64_t seed = 0;
  model::PolicyKind policy = model::PolicyKind::kFull;
  int32_t session_tokens_after = 0;         // length of the session now
  bool replayed = false;                    // answered from memory
  std::vector<CandidateResult> candidates;  // empty unless several were asked for
};

struct AppendResult {
  int32_t appended_tokens = 0;
  int32_t session_tokens_after = 0;
  Usage usage;
  Timings timings;
  bool replayed = false;  // answered from memory
};

// Receives one request's progress. Called on the engine thread; must not block or call back into
// the engine. After OnDone no further call is made, and the engine lets go of the sink.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // `done` of `total` new prompt tokens are in the cache. At least once per prefill chunk.
  virtual void OnPrefill(int32_t done, int32_t total) = 0;
  virtual void OnToken(const TokenEvent& event) = 0;
  // False while the reader is behind: the engine pauses this sequence and asks again in a later
  // step. Of several candidates each may still get the token of the running step.
  virtual bool Ready() = 0;
  // Exactly once. On error the session stands at its last acknowledged token.
  virtual void OnDone(absl::StatusOr<GenerateResult> result) = 0;
};

// Within a tenant, requests with a higher priority go first.
inline constexpr int32_t kMinPriority = -100;
inline constexpr int32_t kMaxPriority = 100;

// What every request says.
struct RequestHead {
  std::string tenant = kDefaultTenant;
  std::string session_id;  // Generate: empty for one shot, no session is kept
  std::string etag;        // of the session; empty: any
  int32_t priority = 0;
  // Not empty: the request happens at most once in the session. Sent again with the same id and
  // fingerprint it is answered from memory; and where it fails, it leaves the session as it was.
  std::string request_id;
  uint64_t fingerprint = 0;             // of all that was asked
  std::shared_ptr<CancelToken> cancel;  // never null
  std::optional<Clock::time_point> deadline;
};

struct GenerateRequest : RequestHead {
  std::vector<Input>
      prompt;  // appended before generating; may be empty when the session has tokens
  Sampling sampling;
  std::optional<model::Policy> policy;  // absent: the session's, else the server's
  int32_t report_blocks = 0;            // how many top blocks to report
  int32_t top_logprobs = 0;         // how many of the likeliest tokens to report with each token
  int32_t candidates = 1;           // replies to draw; a session keeps the first
  bool record_selection = false;    // keep which blocks each token read, for Engine::Selection
  std::shared_ptr<TokenSink> sink;  // never null
};

struct AppendRequest : RequestHead {
  std::vector<Input> input;
  std::function<void(int32_t done, int32_t total)> on_progress;  // engine thread; must not block
  std::function<void(absl::StatusOr<AppendResult>)> on_done;     // exactly once, engine thread
};

}  // namespace spotd::engine
