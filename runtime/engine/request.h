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
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  bool ignore_eos = false;
};

// The client's call. The engine looks at it in each step; whoever holds the call sets it.
// Thread-safe.
class CancelToken {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_{false};
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

// prompt_tokens == computed_tokens + session_tokens, always.
struct Usage {
  int32_t prompt_tokens = 0;     // the context the first generated token saw
  int32_t computed_tokens = 0;   // of these, prefilled by this request
  int32_t session_tokens = 0;    // of these, already in the session's cache
  int32_t generated_tokens = 0;  // an end-of-sequence token included
};

// Sparsity of one request, summed over its decode steps.
struct RequestSparsity {
  model::RowSparsity sum;  // counts and bytes; the means below are over sparse steps
  int32_t steps = 0;
  int32_t dense_steps = 0;
  double mean_covered_mass = 1.0;
  double mean_selected_tokens = 0;
  // Share of steps x layers that read each block of the context, for "where was the answer read
  // from": (block index, share), largest first, sinks and recency left out, over the steps that
  // were sparse; filled when GenerateRequest::report_blocks > 0.
  std::vector<std::pair<int32_t, float>> top_blocks;
};

struct TokenEvent {
  int32_t token = 0;
  float logprob = 0;
  std::string text;  // text completed by this token: valid UTF-8, may be empty while a character or
                     // stop string is open
  model::RowSparsity sparsity;
};

struct GenerateResult {
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;  // the one that matched
  Usage usage;
  Timings timings;
  RequestSparsity sparsity;
  uint64_t seed = 0;
  model::PolicyKind policy = model::PolicyKind::kFull;
  int32_t session_tokens_after = 0;  // length of the session now
};

struct AppendResult {
  int32_t appended_tokens = 0;
  int32_t session_tokens_after = 0;
  Timings timings;
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
  // step.
  virtual bool Ready() = 0;
  // Exactly once. On error the session stands at its last acknowledged token.
  virtual void OnDone(absl::StatusOr<GenerateResult> result) = 0;
};

struct GenerateRequest {
  std::string session_id;  // empty: one shot, no session is kept
  std::vector<Input>
      prompt;  // appended before generating; may be empty when the session has tokens
  Sampling sampling;
  std::optional<model::Policy> policy;  // absent: the session's, else the server's
  int32_t report_blocks = 0;            // how many top blocks to report
  std::shared_ptr<CancelToken> cancel;  // never null
  std::optional<Clock::time_point> deadline;
  std::shared_ptr<TokenSink> sink;  // never null
};

struct AppendRequest {
  std::string session_id;
  std::vector<Input> input;
  std::shared_ptr<CancelToken> cancel;
  std::optional<Clock::time_point> deadline;
  std::function<void(int32_t done, int32_t total)> on_progress;  // engine thread; must not block
  std::function<void(absl::StatusOr<AppendResult>)> on_done;     // exactly once, engine thread
};

}  // namespace spotd::engine
