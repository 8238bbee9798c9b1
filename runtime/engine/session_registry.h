// The sessions by id, and who is working on them: at most one request writes to a session, and it
// holds a SessionClaim.
//
// KV belongs to the engine thread, so operations that touch it hand a command to that thread
// through `post`. They call it under the registry's mutex: a command is queued before any request
// that claims the session afterwards.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/kv_store.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/metrics.h"
#include "runtime/engine/session.h"

namespace spotd::engine {

class SessionRegistry;

// The right to change a session's content. Move-only; ends with the object.
class SessionClaim {
 public:
  SessionClaim() = default;
  // Of a session that no registry knows.
  explicit SessionClaim(std::shared_ptr<Session> session) : session_(std::move(session)) {}
  SessionClaim(SessionClaim&& other) noexcept;
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
  SessionRegistry(kvstore::KvStore* store, Metrics* metrics, int32_t max_sessions);

  // RESOURCE_EXHAUSTED (SESSION_LIMIT).
  absl::StatusOr<SessionInfo> Create(const SessionOptions& options, const model::Policy& policy);
  // NOT_FOUND (SESSION_NOT_FOUND), here and below.
  absl::StatusOr<SessionInfo> Get(const std::string& id) const;
  std::vector<SessionInfo> List(const std::string& after, int32_t limit) const;
  // A session for one request, which no other can find.
  SessionClaim OneShot(const model::Policy& policy) const;

  // ABORTED (SESSION_BUSY) when another request has it.
  absl::StatusOr<SessionClaim> Claim(const std::string& id);

  // Takes the session out; a request that has claimed it keeps it alive.
  absl::Status Remove(const std::string& id,
                      const std::function<void(std::shared_ptr<Session>)>& post);
  // Copies the content into a new session. ABORTED while claimed. `post` shares the KV. Returns the
  // new id.
  using PostFork = std::function<void(std::shared_ptr<Session> from, std::shared_ptr<Session> to)>;
  absl::StatusOr<std::string> Fork(const std::string& id, const SessionOptions& options,
                                   const PostFork& post);
  // Keeps the first `tokens` tokens. ABORTED while claimed; OUT_OF_RANGE. `post` truncates the KV.
  absl::Status Rewind(const std::string& id, int32_t tokens, const text::Tokenizer& tokenizer,
                      const std::function<void(std::shared_ptr<Session>)>& post);

  // Every session, for the engine thread's search for KV to reclaim.
  std::vector<std::shared_ptr<Session>> All() const;
  // Makes the KV that the session holds now visible to Get and List. Engine thread.
  void PublishKv(const Session& session);

 private:
  friend class SessionClaim;
  struct Entry {
    std::shared_ptr<Session> session;
    SessionInfo info;  // what others see
  };

  void EndClaim(const Session& session);
  absl::StatusOr<Entry*> Find(const std::string& id);               // mutex_ held
  absl::StatusOr<Entry*> FindIdle(const std::string& id);           // mutex_ held
  absl::StatusOr<Entry*> Insert(std::shared_ptr<Session> session);  // mutex_ held
  void PublishContent(Entry* entry);                                // mutex_ held

  kvstore::KvStore* const store_;
  Metrics* const metrics_;
  const int32_t max_sessions_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> sessions_;  // guarded by mutex_
};

}  // namespace spotd::engine
