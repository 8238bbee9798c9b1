#include "runtime/engine/session_registry.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::milliseconds kRetrySessionLimit{10000};

int64_t UnixMilliseconds() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// 64 random bits: not to be guessed, and unique for all practical purposes.
std::string NewId() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;
  std::string id;
  for (int word = 0; word < 2; ++word) {
    uint32_t bits = random();
    for (int digit = 0; digit < 8; ++digit, bits >>= 4) id += kDigits[bits & 15];
  }
  return id;
}

absl::Status UnknownSession(const std::string& id) {
  return MakeError(absl::StatusCode::kNotFound, Concat("there is no session \"", id, "\""),
                   {.reason = reason::kSessionNotFound, .metadata = {{"session", id}}});
}

}  // namespace

SessionClaim::SessionClaim(SessionClaim&& other) noexcept
    : registry_(std::exchange(other.registry_, nullptr)), session_(std::move(other.session_)) {}

void SessionClaim::End() {
  if (registry_ != nullptr) std::exchange(registry_, nullptr)->EndClaim(*session_);
}

SessionRegistry::SessionRegistry(kvstore::KvStore* store, Metrics* metrics, int32_t max_sessions)
    : store_(store), metrics_(metrics), max_sessions_(max_sessions) {}

absl::StatusOr<SessionInfo> SessionRegistry::Create(const SessionOptions& options,
                                                    const model::Policy& policy) {
  auto session = std::make_shared<Session>();
  session->display_name = options.display_name;
  session->policy = policy;
  session->table = store_->NewTable();
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(const Entry* entry, Insert(std::move(session)));
  return entry->info;
}

absl::StatusOr<SessionInfo> SessionRegistry::Get(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return UnknownSession(id);
  return it->second.info;
}

std::vector<SessionInfo> SessionRegistry::List(const std::string& after, int32_t limit) const {
  const std::lock_guard lock(mutex_);
  std::vector<SessionInfo> list;
  for (auto it = sessions_.upper_bound(after); it != sessions_.end(); ++it) {
    if (static_cast<int32_t>(list.size()) >= limit) break;
    list.push_back(it->second.info);
  }
  return list;
}

SessionClaim SessionRegistry::OneShot(const model::Policy& policy) const {
  auto session = std::make_shared<Session>();
  session->policy = policy;
  session->table = store_->NewTable();
  return SessionClaim(std::move(session));
}

absl::StatusOr<SessionClaim> SessionRegistry::Claim(const std::string& id) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, FindIdle(id));
  entry->info.busy = true;
  return SessionClaim(this, entry->session);
}

absl::Status SessionRegistry::Remove(const std::string& id,
                                     const std::function<void(std::shared_ptr<Session>)>& post) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, Find(id));
  metrics_->sessions.fetch_sub(1);
  metrics_->session_tokens.fetch_sub(entry->info.tokens);
  post(entry->session);
  sessions_.erase(id);
  return absl::OkStatus();
}

absl::StatusOr<std::string> SessionRegistry::Fork(const std::string& id,
                                                  const SessionOptions& options,
                                                  const PostFork& post) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * parent, FindIdle(id));
  auto fork = std::make_shared<Session>();
  fork->display_name = options.display_name;
  fork->policy = options.policy.value_or(parent->session->policy);
  fork->tokens = parent->session->tokens;
  fork->conversation = parent->session->conversation;
  fork->table = store_->NewTable();
  SPOTD_ASSIGN_OR_RETURN(const Entry* entry, Insert(fork));
  metrics_->session_forks.fetch_add(1);
  post(parent->session, std::move(fork));
  return entry->info.id;
}

absl::Status SessionRegistry::Rewind(const std::string& id, int32_t tokens,
                                     const text::Tokenizer& tokenizer,
                                     const std::function<void(std::shared_ptr<Session>)>& post) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, FindIdle(id));
  Session& session = *entry->session;
  const auto length = static_cast<int32_t>(session.tokens.size());
  if (tokens < 0 || tokens > length) {
    return MakeError(
        absl::StatusCode::kOutOfRange,
        Concat("token_count is ", tokens, "; the session has ", length, " tokens"),
        {.reason = reason::kPositionOutOfRange,
         .field = "token_count",
         .metadata = {{"limit", std::to_string(length)}, {"got", std::to_string(tokens)}}});
  }
  session.tokens.resize(tokens);
  if (tokens < length) session.conversation.Rewind(session.tokens, tokenizer);
  PublishContent(entry);
  post(entry->session);
  metrics_->session_rewinds.fetch_add(1);
  return absl::OkStatus();
}

std::vector<std::shared_ptr<Session>> SessionRegistry::All() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Session>> all;
  all.reserve(sessions_.size());
  for (const auto& [id, entry] : sessions_) all.push_back(entry.session);
  return all;
}

void SessionRegistry::PublishKv(const Session& session) {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(session.id);
  if (it == sessions_.end()) return;
  SessionInfo& info = it->second.info;
  info.cached_tokens = session.table.num_tokens();
  info.kv_blocks = static_cast<int32_t>(session.table.blocks().size());
  info.kv_bytes = info.kv_blocks * store_->layout().BytesPerBlock();
}

void SessionRegistry::EndClaim(const Session& session) {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(session.id);
  if (it == sessions_.end()) return;  // removed meanwhile
  PublishContent(&it->second);
  it->second.info.busy = false;
}

absl::StatusOr<SessionRegistry::Entry*> SessionRegistry::Find(const std::string& id) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return UnknownSession(id);
  return &it->second;
}

absl::StatusOr<SessionRegistry::Entry*> SessionRegistry::FindIdle(const std::string& id) {
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, Find(id));
  if (!entry->info.busy) return entry;
  return MakeError(absl::StatusCode::kAborted,
                   Concat("another call is working on session \"", id, "\""),
                   {.reason = reason::kSessionBusy, .metadata = {{"session", id}}});
}

absl::StatusOr<SessionRegistry::Entry*> SessionRegistry::Insert(std::shared_ptr<Session> session) {
  if (static_cast<int32_t>(sessions_.size()) >= max_sessions_) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     Concat("the server holds ", sessions_.size(), " sessions, as many as it may"),
                     {.reason = reason::kSessionLimit,
                      .metadata = {{"limit", std::to_string(max_sessions_)}},
                      .retry_after = kRetrySessionLimit});
  }
  do {
    session->id = NewId();
  } while (sessions_.contains(session->id));
  session->create_time_ms = UnixMilliseconds();
  Entry& entry = sessions_[session->id];
  entry.info.id = session->id;
  entry.info.display_name = session->display_name;
  entry.info.policy = session->policy;
  entry.info.create_time_ms = session->create_time_ms;
  entry.info.update_time_ms = session->create_time_ms;
  entry.session = std::move(session);
  metrics_->sessions.fetch_add(1);
  PublishContent(&entry);
  return &entry;
}

void SessionRegistry::PublishContent(Entry* entry) {
  const auto tokens = static_cast<int32_t>(entry->session->tokens.size());
  if (tokens == entry->info.tokens) return;
  metrics_->session_tokens.fetch_add(tokens - entry->info.tokens);
  entry->info.tokens = tokens;
  entry->info.update_time_ms = UnixMilliseconds();
}

}  // namespace spotd::engine
