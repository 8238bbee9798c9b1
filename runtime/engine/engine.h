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

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/kv_store.h"
#include "runtime/engine/attention_audit.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/request.h"
#include "runtime/engine/selection_record.h"
#include "runtime/engine/tenant.h"
#include "runtime/model/transformer.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace spotd::engine {

int64_t UnixMilliseconds();

// What sessions may be, for all of them and for each tenant.
struct SessionLimits {
  int32_t max_sessions = 1024;
  TenantLimits tenant;
  std::chrono::milliseconds default_ttl{0};  // of sessions that ask for none; 0 = for ever
  std::chrono::milliseconds max_ttl{0};      // asked for more, or for ever: this; 0 = no bound
  // Unix time in milliseconds; tests set their own clock.
  std::function<int64_t()> now_ms = UnixMilliseconds;
};

// What clients may choose of the policies.
struct PolicyBounds {
  std::vector<model::PolicyKind> allowed;  // empty: all
  int32_t min_tokens = 0;                  // k_min_tokens is at least this
  int32_t max_tokens = 0;  // k_max_tokens is at most this, and not unlimited; 0 = off
};

// Whether sparse decoding loses anything is measured while it runs: every so many decode steps one
// layer, the next one each time, is attended to densely as well.
struct AuditOptions {
  AttentionAudit* probe = nullptr;  // the backend given to Create, or part of it; null: no audits
  int32_t every_steps = 0;          // 0 = never
  // A session whose recalled mass, over its latest audits, falls under this decodes densely from
  // then on. 0 = no session does.
  double floor = 0;
};

struct EngineOptions {
  SessionLimits sessions;
  PolicyBounds policy_bounds;
  int32_t max_waiting =
      256;  // requests queued behind the running ones; more get RESOURCE_EXHAUSTED at once
  int64_t max_waiting_tokens = 0;  // prompt tokens of requests not yet begun; 0 = no bound
  int32_t max_running = 64;        // sequences decoded together, <= Limits::max_batch
  bool prefix_sharing = true;      // sessions of one tenant that begin alike share KV
  // Share of the KV blocks that may keep beginnings which no session holds any longer. What is kept
  // is given up before anything else where others need the room.
  double prefix_cache_share = 0;
  size_t max_record_bytes = 64u << 20;  // of recorded selections, all together
  // A reply whose reader has been behind for so long gives up its place to one that waits.
  std::chrono::milliseconds reader_patience{1000};
  // A tenant that has nothing running waits no longer for places of one that has several.
  std::chrono::milliseconds tenant_patience{2000};
  size_t max_prompt_bytes = 16u << 20;
  model::Policy default_policy;
  AuditOptions audit;
  kernels::SelectorKeyFormat selector_format = kernels::SelectorKeyFormat::kInt4;
  size_t kv_memory_bytes = 0;
};

struct SessionOptions {
  std::string tenant = kDefaultTenant;
  std::string display_name = {};
  std::optional<model::Policy> policy = {};
  // Removed when unused for so long; absent: the server's default.
  std::optional<std::chrono::milliseconds> ttl = {};
  std::optional<int64_t> expire_time_ms = {};  // removed then, used or not; instead of `ttl`
  // Not empty: the tenant's session made for the same id and fingerprint is the answer, where there
  // is one.
  std::string request_id = {};
  uint64_t fingerprint = 0;  // of all that was asked
};

// What UpdateSession changes.
struct SessionUpdate {
  std::optional<std::string> display_name = {};
  // From the policy that the session has to its new one. Called again where somebody has changed
  // the policy meanwhile: of two callers who change a part each, both are heard. No lock is held.
  std::function<absl::StatusOr<model::Policy>(const model::Policy&)> policy = {};
  bool expiry = false;  // whether the next two replace what the session has
  std::optional<std::chrono::milliseconds> ttl = {};
  std::optional<int64_t> expire_time_ms = {};
};

// Names a session for one caller. Implicit from an id, which is the default tenant's.
struct SessionRef {
  SessionRef(std::string id_in)  // NOLINT(google-explicit-constructor)
      : id(std::move(id_in)) {}
  SessionRef(const char* id_in) : id(id_in) {}  // NOLINT(google-explicit-constructor)
  SessionRef(std::string id_in, std::string tenant_in, std::string etag_in = {})
      : id(std::move(id_in)), tenant(std::move(tenant_in)), etag(std::move(etag_in)) {}

  std::string id;
  std::string tenant = kDefaultTenant;
  std::string etag;  // empty, or what the session's etag must be
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
  int64_t ttl_ms = 0;          // 0 = not removed for being idle
  int64_t expire_time_ms = 0;  // as things stand; 0 = never
  std::string etag;            // changes with the tokens, and by an UpdateSession that changes it
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
  absl::StatusOr<SessionInfo> GetSession(const SessionRef& ref);
  // The tenant's sessions whose id sorts after `after.id`, at most `limit`, in id order.
  std::vector<SessionInfo> ListSessions(const SessionRef& after, int32_t limit);
  absl::StatusOr<SessionInfo> UpdateSession(const SessionRef& ref, const SessionUpdate& update);
  absl::Status DeleteSession(const SessionRef& ref);  // cancels what runs on it
  // The new session is the same tenant's, whatever the options say.
  absl::StatusOr<SessionInfo> ForkSession(const SessionRef& ref, const SessionOptions& options);
  // Keeps the first `tokens` tokens. OUT_OF_RANGE beyond the session's length.
  absl::StatusOr<SessionInfo> RewindSession(const SessionRef& ref, int32_t tokens);

  // What the session's latest reply with `record_selection` read.
  absl::StatusOr<std::shared_ptr<const SelectionRecord>> Selection(const SessionRef& ref);

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
