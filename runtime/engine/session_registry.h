// The sessions by id, and who is working on them: at most one request writes to a session, and it
// holds a SessionClaim.
//
// A session belongs to a tenant, and exists for no other. One that has a time to live is removed
// when nobody has used it for so long; it stops existing at that moment, and the engine thread
// collects its KV later (TakeExpired).
//
// KV belongs to the engine thread, so operations that touch it hand a command to that thread
// through `post`. They call it under the registry's mutex, or while they hold a claim: a command is
// queued before any request that claims the session afterwards.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/kv_store.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/selection_record.h"
#include "runtime/engine/session.h"

namespace spotd::engine {

class SessionRegistry;

// The right to change a session's content. Move-only; ends with the object.
class SessionClaim {
 public:
  SessionClaim() = default;
  // Of a session that no registry knows.
  explicit SessionClaim(std::shared_ptr<Session> session) : session_(std::move(session)) {}
  SessionClaim(SessionClaim&& other) noexcept
      : registry_(std::exchange(other.registry_, nullptr)), session_(std::move(other.session_)) {}
  SessionClaim& operator=(SessionClaim&&) = delete;
  ~SessionClaim() { End(); }

  Session* get() const { return session_.get(); }
  Session* operator->() const { return session_.get(); }
  // The session's content as it is now becomes what others see, and others may claim it.
  void End();

 private:
  friend class SessionRegistry;
  SessionClaim(SessionRegistry* registry, std::shared_ptr<Session> session)
      : registry_(registry), session_(std::move(session)) {}

  SessionRegistry* registry_ = nullptr;  // null: nothing to end
  std::shared_ptr<Session> session_;
};

class SessionRegistry {
 public:
  // `store` makes the block tables and, like `metrics`, must outlive the registry and its claims.
  SessionRegistry(kvstore::KvStore* store, Metrics* metrics, const SessionLimits& limits)
      : store_(store), metrics_(metrics), limits_(limits) {}

  // RESOURCE_EXHAUSTED (SESSION_LIMIT, TENANT_SESSION_LIMIT). The tenant's session that was made
  // for the same request id, where there is one; INVALID_ARGUMENT (REQUEST_ID_REUSED) where another
  // request made it.
  absl::StatusOr<SessionInfo> Create(const SessionOptions& options, const model::Policy& policy);
  // NOT_FOUND (SESSION_NOT_FOUND), here and below; ABORTED (ETAG_MISMATCH) where a reference has
  // an etag that is not the session's.
  absl::StatusOr<SessionInfo> Get(const SessionRef& ref) const;
  // The tenant's sessions whose id sorts after `after.id`.
  std::vector<SessionInfo> List(const SessionRef& after, int32_t limit) const;
  // A session for one request, which no other can find.
  SessionClaim OneShot(const std::string& tenant, const model::Policy& policy) const;

  // ABORTED (SESSION_BUSY) when another request has it. A request that the session has answered
  // already may come with the etag from before it.
  absl::StatusOr<SessionClaim> Claim(const SessionRef& ref, const std::string& request_id);
  // Counts a session that is claimed as one of `tokens` tokens, where it has fewer, until the claim
  // ends: what a tenant may hold is checked while its requests run. RESOURCE_EXHAUSTED
  // (TENANT_TOKEN_LIMIT) unless its sessions may have so many more.
  absl::Status HoldTokens(const Session& session, int64_t tokens);

  // Calls `update.policy` without the registry's mutex. ABORTED while claimed where the policy is
  // to change.
  absl::StatusOr<SessionInfo> Update(const SessionRef& ref, const SessionUpdate& update);
  // Takes the session out; a request that has claimed it keeps it alive.
  absl::Status Remove(const SessionRef& ref,
                      const std::function<void(std::shared_ptr<Session>)>& post);
  // Copies the content into a new session. ABORTED while claimed; as Create where the options have
  // a request id. `post` shares the KV. Returns the new id.
  using PostFork = std::function<void(std::shared_ptr<Session> from, std::shared_ptr<Session> to)>;
  absl::StatusOr<std::string> Fork(const SessionRef& ref, const SessionOptions& options,
                                   const PostFork& post);
  // Keeps the first `tokens` tokens. ABORTED while claimed; OUT_OF_RANGE. `post` truncates the KV.
  // Makes text without the registry's mutex, with the session claimed: others see it as it was,
  // then as it becomes.
  absl::Status Rewind(const SessionRef& ref, int32_t tokens, const text::Tokenizer& tokenizer,
                      const std::function<void(std::shared_ptr<Session>)>& post);

  // Every session, for the engine thread's search for KV to reclaim.
  std::vector<std::shared_ptr<Session>> All() const;
  // Makes the KV that the session holds now visible to Get and List. Engine thread.
  void PublishKv(const Session& session);
  // The record of the session's latest reply that was recorded; replaces the one before. NOT_FOUND
  // (TRACE_NOT_FOUND).
  void PublishSelection(const Session& session, std::shared_ptr<const SelectionRecord> record);
  absl::StatusOr<std::shared_ptr<const SelectionRecord>> Selection(const SessionRef& ref) const;
  // Sessions that have expired since the last call, for the engine thread to drop their KV.
  std::vector<std::shared_ptr<Session>> TakeExpired();
  // Until the next session expires; nothing when none will.
  std::optional<std::chrono::milliseconds> UntilNextExpiry() const;

 private:
  friend class SessionClaim;
  using Expiries = std::set<std::pair<int64_t, std::string>>;  // time, id
  struct Entry {
    std::shared_ptr<Session> session;
    SessionInfo info;           // what others see
    int64_t held = 0;           // tokens more than these, of the request that has claimed it
    Expiries::iterator expiry;  // its place, where info.expire_time_ms is not 0
    std::string request_id;
    uint64_t fingerprint = 0;  // of the request that made it
    uint64_t revision = 0;     // of the content
    std::shared_ptr<const SelectionRecord> selection;
  };
  using Sessions = std::map<std::string, Entry>;
  struct Holdings {
    int32_t sessions = 0;
    int64_t tokens = 0;  // with what requests hold
  };

  // The claim of a rewind that can be.
  absl::StatusOr<SessionClaim> ClaimToRewind(const SessionRef& ref, int32_t tokens);
  void EndClaim(const Session& session);
  struct PolicyChange {
    model::Policy from;
    model::Policy to;
  };
  // Nothing, and nothing is changed, where the session's policy is not `policy->from` any more.
  absl::StatusOr<std::optional<SessionInfo>> TryUpdate(const SessionRef& ref,
                                                       const SessionUpdate& update,
                                                       const std::optional<PolicyChange>& policy);
  // All below: mutex_ held.
  bool Visible(const Entry& entry, const std::string& tenant) const;
  absl::StatusOr<Entry*> Find(const SessionRef& ref);
  absl::StatusOr<Entry*> FindIdle(const SessionRef& ref);
  absl::Status CheckEtag(const Entry& entry, const std::string& etag) const;
  // The session that was made for the request; null where there is none.
  absl::StatusOr<const Entry*> FindByRequest(const std::string& tenant,
                                             const SessionOptions& options) const;
  absl::Status CheckRoom(const std::string& tenant) const;
  absl::Status CheckTokenRoom(const std::string& tenant, int64_t more) const;
  absl::StatusOr<Entry*> Insert(std::shared_ptr<Session> session, const SessionOptions& options);
  void Register(Entry* entry, std::shared_ptr<Session> session, SessionInfo info,
                const SessionOptions& options);
  absl::Status SetExpiry(const SessionOptions& options, SessionInfo* info) const;
  void MoveExpiry(Entry* entry, int64_t time_ms);
  void Erase(Sessions::iterator it);
  void Purge();
  void Renew(Entry* entry);
  void PublishContent(Entry* entry);

  kvstore::KvStore* const store_;
  Metrics* const metrics_;
  const SessionLimits limits_;
  mutable std::mutex mutex_;
  // Guarded by mutex_:
  Sessions sessions_;
  std::map<std::string, Holdings> tenants_;
  std::map<std::pair<std::string, std::string>, std::string> by_request_;  // tenant, request -> id
  Expiries expiries_;
  std::vector<std::shared_ptr<Session>> expired_;
};

}  // namespace spotd::engine
