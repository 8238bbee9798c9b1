// The engine: one thread that owns every sequence and advances them step by step (continuous
// batching).
//
// Each step runs all runnable decodes as one batch, plus a bounded chunk of one prefill, so a long
// prompt never stalls the others. Cancelled and expired requests are dropped before each step and
// between prefill chunks.
//
// KV memory: a prompt's KV is reserved when the request is admitted. Sessions on which nothing runs
// lose their KV, least recently used first, when others need the room; their tokens stay and are
// computed again (runtime/engine/README.md).
//
// Session model: a session is a list of tokens and their KV. The newest token is *pending*: its KV
// is written by the step that generates after it. A failed or cancelled request leaves the session
// at its last acknowledged token.
//
// Thread-safety: every public method may be called from any thread. Tokenising and template
// rendering happen on the calling thread, never on the engine's.
//
// Errors are absl::Status whose code is the client's and whose message names field and limit; the
// machine-readable reason ("SESSION_NOT_FOUND", ...) is attached with errors.h and becomes
// google.rpc.ErrorInfo in `server`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/kv_store.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/request.h"
#include "runtime/model/transformer.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace spotd::engine {

struct EngineOptions {
  int32_t max_sessions = 1024;
  int32_t max_waiting =
      256;  // requests queued behind the running ones; more get RESOURCE_EXHAUSTED at once
  int32_t max_running = 64;  // sequences decoded together, <= Limits::max_batch
  size_t max_prompt_bytes = 16u << 20;
  model::Policy default_policy;
  kernels::SelectorKeyFormat selector_format = kernels::SelectorKeyFormat::kInt4;
  size_t kv_memory_bytes = 0;
};

struct SessionOptions {
  std::string display_name;
  std::optional<model::Policy> policy;
};

struct SessionInfo {
  std::string id;
  std::string display_name;
  int32_t tokens = 0;
  int32_t cached_tokens = 0;  // with KV: tokens, or one fewer (the pending one)
  int32_t kv_blocks = 0;
  size_t kv_bytes = 0;
  model::Policy policy;
  bool busy = false;           // an Append or Generate is running or queued
  int64_t create_time_ms = 0;  // Unix time
  int64_t update_time_ms = 0;
};

class Engine {
 public:
  // Allocates the KV store and starts the thread.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const EngineOptions& options, std::string model_id, std::unique_ptr<kernels::Backend> backend,
      std::unique_ptr<model::Transformer> transformer, std::unique_ptr<text::Tokenizer> tokenizer,
      std::unique_ptr<text::ChatTemplate> chat_template);
  ~Engine();  // fails what is still running with CANCELLED

  // Sessions. These wait for the engine thread at most one step.
  absl::StatusOr<SessionInfo> CreateSession(const SessionOptions& options);
  absl::StatusOr<SessionInfo> GetSession(const std::string& id);
  // Sessions whose id sorts after `after`, at most `limit`, in id order.
  std::vector<SessionInfo> ListSessions(const std::string& after, int32_t limit);
  absl::Status DeleteSession(const std::string& id);  // cancels what runs on it
  absl::StatusOr<SessionInfo> ForkSession(const std::string& id, const SessionOptions& options);
  // Keeps the first `tokens` tokens. OUT_OF_RANGE beyond the session's length.
  absl::StatusOr<SessionInfo> RewindSession(const std::string& id, int32_t tokens);

  // Inference. Never block; the outcome, refusals included, arrives through the request's sink or
  // on_done, on the engine thread. Append: all or nothing. Generate: prompt and reply stay in the
  // session as far as tokens were delivered; before the first one, nothing. Generate with an empty
  // prompt continues the session, after the chat template's generation prompt where its last
  // message awaits a reply.
  void Append(AppendRequest request);
  void Generate(GenerateRequest request);

  // Stops admitting (UNAVAILABLE); running and queued requests finish.
  void StartDrain();
  // True when nothing runs or waits.
  bool Idle() const;

  const text::Tokenizer& tokenizer() const;
  const model::ModelConfig& model_config() const;
  const std::string& model_id() const;
  const EngineOptions& options() const;
  int32_t max_context() const;
  bool has_selector() const;
  std::string backend_description() const;
  Metrics& metrics();  // thread-safe counters; `server` exports them

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spotd::engine
