#include "runtime/engine/session_registry.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <span>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/session_id.h"

namespace spotd::engine {
namespace {

constexpr std::chrono::milliseconds kRetrySessionLimit{10000};

absl::Status UnknownSession(const std::string& id) {
  return MakeError(absl::StatusCode::kNotFound, Concat("there is no session \"", id, "\""),
                   {.reason = reason::kSessionNotFound, .metadata = {{"session", id}}});
}

absl::Status LimitReached(const char* reason, std::string_view message, int64_t limit) {
  return MakeError(absl::StatusCode::kResourceExhausted, message,
                   {.reason = reason,
                    .metadata = {{"limit", std::to_string(limit)}},
                    .retry_after = kRetrySessionLimit});
}

absl::Status InvalidField(const char* field, std::string_view problem) {
  return MakeError(absl::StatusCode::kInvalidArgument, Concat(field, " ", problem),
                   {.reason = reason::kInvalidField, .field = field});
}

// When a time to live that begins now is over. The last moment of the year 9999 is the last one
// that a google.protobuf.Timestamp can name.
int64_t EndOfLife(int64_t now_ms, int64_t ttl_ms) {
  return std::min<int64_t>(now_ms + ttl_ms, 253'402'300'799'999);
}

std::string Etag(uint64_t revision) {
  return Concat("r", revision);
}

// Whether what UpdateSession can change is another. An end that a time to live has moved is not.
bool Differ(const SessionInfo& a, const SessionInfo& b) {
  return a.display_name != b.display_name || a.policy != b.policy || a.ttl_ms != b.ttl_ms ||
         (a.ttl_ms == 0 && a.expire_time_ms != b.expire_time_ms);
}

}  // namespace

void SessionClaim::End() {
  if (registry_ != nullptr) std::exchange(registry_, nullptr)->EndClaim(*session_);
}

absl::StatusOr<SessionInfo> SessionRegistry::Create(const SessionOptions& options,
                                                    const model::Policy& policy) {
  auto session = std::make_shared<Session>();
  session->policy = policy;
  session->table = store_->NewTable();
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(const Entry* made, FindByRequest(options.tenant, options));
  if (made != nullptr) return made->info;
  SPOTD_ASSIGN_OR_RETURN(const Entry* entry, Insert(std::move(session), options));
  return entry->info;
}

absl::StatusOr<SessionInfo> SessionRegistry::Get(const SessionRef& ref) const {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(ref.id);
  if (it == sessions_.end() || !Visible(it->second, ref.tenant)) return UnknownSession(ref.id);
  return it->second.info;
}

std::vector<SessionInfo> SessionRegistry::List(const SessionRef& after, int32_t limit) const {
  const std::lock_guard lock(mutex_);
  std::vector<SessionInfo> list;
  for (auto it = sessions_.upper_bound(after.id); it != sessions_.end(); ++it) {
    if (static_cast<int32_t>(list.size()) >= limit) break;
    if (Visible(it->second, after.tenant)) list.push_back(it->second.info);
  }
  return list;
}

SessionClaim SessionRegistry::OneShot(const std::string& tenant,
                                      const model::Policy& policy) const {
  auto session = std::make_shared<Session>();
  session->tenant = tenant;
  session->policy = policy;
  session->table = store_->NewTable();
  return SessionClaim(std::move(session));
}

absl::StatusOr<SessionClaim> SessionRegistry::Claim(const SessionRef& ref,
                                                    const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, FindIdle({ref.id, ref.tenant}));
  if (request_id.empty() || entry->session->requests.Find(request_id) == nullptr) {
    SPOTD_RETURN_IF_ERROR(CheckEtag(*entry, ref.etag));
  }
  Renew(entry);
  entry->info.busy = true;
  return SessionClaim(this, entry->session);
}

absl::Status SessionRegistry::HoldTokens(const Session& session, int64_t tokens) {
  if (limits_.tenant.max_session_tokens == 0 || session.id.empty()) return absl::OkStatus();
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(session.id);
  if (it == sessions_.end()) return absl::OkStatus();  // removed meanwhile
  Entry& entry = it->second;
  const int64_t more = tokens - entry.info.tokens - entry.held;
  if (more <= 0) return absl::OkStatus();
  SPOTD_RETURN_IF_ERROR(CheckTokenRoom(session.tenant, more));
  tenants_[session.tenant].tokens += more;
  entry.held += more;
  return absl::OkStatus();
}

absl::Status SessionRegistry::CheckTokenRoom(const std::string& tenant, int64_t more) const {
  const int64_t limit = limits_.tenant.max_session_tokens;
  if (limit == 0) return absl::OkStatus();
  const auto it = tenants_.find(tenant);
  const int64_t held = it == tenants_.end() ? 0 : it->second.tokens;
  if (held + more <= limit) return absl::OkStatus();
  return LimitReached(reason::kTenantTokenLimit,
                      Concat("your sessions and requests hold ", held, " tokens; with ", more,
                             " more they would exceed your limit of ", limit),
                      limit);
}

absl::StatusOr<SessionInfo> SessionRegistry::Update(const SessionRef& ref,
                                                    const SessionUpdate& update) {
  for (;;) {
    std::optional<PolicyChange> policy;
    if (update.policy) {
      SPOTD_ASSIGN_OR_RETURN(const SessionInfo now, Get(ref));
      SPOTD_ASSIGN_OR_RETURN(const model::Policy to, update.policy(now.policy));
      policy = {.from = now.policy, .to = to};
    }
    SPOTD_ASSIGN_OR_RETURN(std::optional<SessionInfo> updated, TryUpdate(ref, update, policy));
    if (updated) return *std::move(updated);
  }
}

absl::StatusOr<std::optional<SessionInfo>> SessionRegistry::TryUpdate(
    const SessionRef& ref, const SessionUpdate& update, const std::optional<PolicyChange>& policy) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, policy ? FindIdle(ref) : Find(ref));
  SessionInfo info = entry->info;
  if (update.display_name) info.display_name = *update.display_name;
  if (policy) {
    if (info.policy != policy->from) return std::nullopt;
    info.policy = policy->to;
  }
  if (update.expiry) {
    SessionOptions options;
    options.ttl = update.ttl;
    options.expire_time_ms = update.expire_time_ms;
    info.ttl_ms = info.expire_time_ms = 0;
    SPOTD_RETURN_IF_ERROR(SetExpiry(options, &info));
  }
  const bool changed = Differ(info, entry->info);
  if (changed) info.etag = Etag(entry->revision + 1);
  if (update.expiry) MoveExpiry(entry, info.expire_time_ms);  // the last that may find no memory
  if (policy) entry->session->policy = info.policy;
  entry->revision += changed ? 1 : 0;
  entry->info = std::move(info);
  return entry->info;
}

absl::Status SessionRegistry::Remove(const SessionRef& ref,
                                     const std::function<void(std::shared_ptr<Session>)>& post) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, Find(ref));
  post(entry->session);
  Erase(sessions_.find(ref.id));
  return absl::OkStatus();
}

absl::StatusOr<std::string> SessionRegistry::Fork(const SessionRef& ref,
                                                  const SessionOptions& options,
                                                  const PostFork& post) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(const Entry* made, FindByRequest(ref.tenant, options));
  if (made != nullptr) return made->info.id;
  SPOTD_ASSIGN_OR_RETURN(const Entry* found, FindIdle(ref));
  const std::shared_ptr<Session> parent = found->session;
  SPOTD_RETURN_IF_ERROR(CheckTokenRoom(ref.tenant, static_cast<int64_t>(parent->tokens.size())));
  auto fork = std::make_shared<Session>();
  fork->policy = options.policy.value_or(parent->policy);
  fork->tokens = parent->tokens;
  fork->conversation = parent->conversation;
  fork->table = store_->NewTable();
  SPOTD_ASSIGN_OR_RETURN(const Entry* entry, Insert(fork, options));
  // Making room removes what has expired by now, the parent too.
  if (const auto it = sessions_.find(ref.id); it != sessions_.end()) Renew(&it->second);
  try {
    post(parent, std::move(fork));
  } catch (const std::bad_alloc&) {
    Erase(sessions_.find(entry->info.id));
    throw;
  }
  metrics_->session_forks.fetch_add(1);
  return entry->info.id;
}

absl::StatusOr<SessionClaim> SessionRegistry::ClaimToRewind(const SessionRef& ref, int32_t tokens) {
  const std::lock_guard lock(mutex_);
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, FindIdle(ref));
  const auto length = static_cast<int32_t>(entry->session->tokens.size());
  if (tokens < 0 || tokens > length) {
    return MakeError(
        absl::StatusCode::kOutOfRange,
        Concat("token_count is ", tokens, "; the session has ", length, " tokens"),
        {.reason = reason::kPositionOutOfRange,
         .field = "token_count",
         .metadata = {{"limit", std::to_string(length)}, {"got", std::to_string(tokens)}}});
  }
  entry->info.busy = true;
  return SessionClaim(this, entry->session);
}

absl::Status SessionRegistry::Rewind(const SessionRef& ref, int32_t tokens,
                                     const text::Tokenizer& tokenizer,
                                     const std::function<void(std::shared_ptr<Session>)>& post) {
  SPOTD_ASSIGN_OR_RETURN(const SessionClaim claim, ClaimToRewind(ref, tokens));
  Session& session = *claim.get();
  // What may find no memory comes first: KV that outlived its tokens would pass for that of others.
  std::optional<Conversation> rewound;
  if (tokens < static_cast<int32_t>(session.tokens.size())) {
    rewound = session.conversation;
    rewound->Rewind(std::span(session.tokens).first(tokens), tokenizer);
  }
  post(claim.session_);
  session.tokens.resize(tokens);
  if (rewound) session.conversation = *std::move(rewound);
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

void SessionRegistry::PublishSelection(const Session& session,
                                       std::shared_ptr<const SelectionRecord> record) {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(session.id);
  if (it != sessions_.end()) it->second.selection = std::move(record);
}

absl::StatusOr<std::shared_ptr<const SelectionRecord>> SessionRegistry::Selection(
    const SessionRef& ref) const {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(ref.id);
  if (it == sessions_.end() || !Visible(it->second, ref.tenant)) return UnknownSession(ref.id);
  if (it->second.selection != nullptr) return it->second.selection;
  return MakeError(absl::StatusCode::kNotFound,
                   "no reply of this session has been recorded; generate with record_trace",
                   {.reason = reason::kTraceNotFound, .metadata = {{"session", ref.id}}});
}

std::vector<std::shared_ptr<Session>> SessionRegistry::TakeExpired() {
  const std::lock_guard lock(mutex_);
  Purge();
  return std::exchange(expired_, {});
}

std::optional<std::chrono::milliseconds> SessionRegistry::UntilNextExpiry() const {
  const std::lock_guard lock(mutex_);
  if (expiries_.empty()) return std::nullopt;
  return std::chrono::milliseconds(
      std::max<int64_t>(expiries_.begin()->first - limits_.now_ms(), 0));
}

void SessionRegistry::EndClaim(const Session& session) {
  const std::lock_guard lock(mutex_);
  const auto it = sessions_.find(session.id);
  if (it == sessions_.end()) return;  // removed meanwhile
  tenants_[session.tenant].tokens -= std::exchange(it->second.held, 0);
  PublishContent(&it->second);
  it->second.info.busy = false;
  Renew(&it->second);
}

bool SessionRegistry::Visible(const Entry& entry, const std::string& tenant) const {
  if (entry.session->tenant != tenant) return false;
  const SessionInfo& info = entry.info;
  return info.busy || info.expire_time_ms == 0 || limits_.now_ms() < info.expire_time_ms;
}

absl::StatusOr<SessionRegistry::Entry*> SessionRegistry::Find(const SessionRef& ref) {
  const auto it = sessions_.find(ref.id);
  if (it == sessions_.end() || !Visible(it->second, ref.tenant)) return UnknownSession(ref.id);
  SPOTD_RETURN_IF_ERROR(CheckEtag(it->second, ref.etag));
  return &it->second;
}

absl::Status SessionRegistry::CheckEtag(const Entry& entry, const std::string& etag) const {
  if (etag.empty() || etag == entry.info.etag) return absl::OkStatus();
  return MakeError(absl::StatusCode::kAborted,
                   Concat("session \"", entry.info.id, "\" has changed since etag ", etag),
                   {.reason = reason::kEtagMismatch,
                    .metadata = {{"session", entry.info.id}, {"etag", entry.info.etag}}});
}

absl::StatusOr<SessionRegistry::Entry*> SessionRegistry::FindIdle(const SessionRef& ref) {
  SPOTD_ASSIGN_OR_RETURN(Entry * entry, Find(ref));
  if (!entry->info.busy) return entry;
  return MakeError(absl::StatusCode::kAborted,
                   Concat("another call is working on session \"", ref.id, "\""),
                   {.reason = reason::kSessionBusy, .metadata = {{"session", ref.id}}});
}

absl::StatusOr<const SessionRegistry::Entry*> SessionRegistry::FindByRequest(
    const std::string& tenant, const SessionOptions& options) const {
  if (options.request_id.empty()) return nullptr;
  const auto made = by_request_.find({tenant, options.request_id});
  if (made == by_request_.end()) return nullptr;
  const Entry& entry = sessions_.at(made->second);
  if (!Visible(entry, tenant)) return nullptr;
  if (entry.fingerprint == options.fingerprint) return &entry;
  return MakeError(absl::StatusCode::kInvalidArgument,
                   "request_id belongs to another request, which has made a session",
                   {.reason = reason::kRequestIdReused,
                    .field = "request_id",
                    .metadata = {{"session", entry.info.id}}});
}

absl::Status SessionRegistry::CheckRoom(const std::string& tenant) const {
  if (static_cast<int32_t>(sessions_.size()) >= limits_.max_sessions) {
    return LimitReached(
        reason::kSessionLimit,
        Concat("the server holds ", sessions_.size(), " sessions, as many as it may"),
        limits_.max_sessions);
  }
  const auto it = tenants_.find(tenant);
  const int32_t held = it == tenants_.end() ? 0 : it->second.sessions;
  const int32_t limit = limits_.tenant.max_sessions;
  if (limit == 0 || held < limit) return absl::OkStatus();
  return LimitReached(reason::kTenantSessionLimit,
                      Concat("you hold ", held, " sessions, as many as you may"), limit);
}

absl::StatusOr<SessionRegistry::Entry*> SessionRegistry::Insert(std::shared_ptr<Session> session,
                                                                const SessionOptions& options) {
  Purge();
  SPOTD_RETURN_IF_ERROR(CheckRoom(options.tenant));
  SessionInfo info;
  SPOTD_RETURN_IF_ERROR(SetExpiry(options, &info));
  do {
    session->id = NewSessionId();
  } while (sessions_.contains(session->id));
  session->tenant = options.tenant;
  info.id = session->id;
  info.display_name = options.display_name;
  info.policy = session->policy;
  info.create_time_ms = limits_.now_ms();
  info.update_time_ms = info.create_time_ms;
  info.etag = Etag(0);
  const auto it = sessions_.try_emplace(session->id).first;
  try {
    Register(&it->second, std::move(session), std::move(info), options);
  } catch (const std::bad_alloc&) {  // as if it had never been
    std::erase_if(by_request_, [&](const auto& made) { return made.second == it->first; });
    std::erase_if(expiries_, [&](const auto& expiry) { return expiry.second == it->first; });
    sessions_.erase(it);
    throw;
  }
  return &it->second;
}

// Allocates before it counts: where it throws, only the maps have to be put right.
void SessionRegistry::Register(Entry* entry, std::shared_ptr<Session> session, SessionInfo info,
                               const SessionOptions& options) {
  entry->info = std::move(info);
  entry->session = std::move(session);
  entry->request_id = options.request_id;
  entry->fingerprint = options.fingerprint;
  const std::string& tenant = entry->session->tenant;
  if (!options.request_id.empty()) {
    by_request_.insert_or_assign({tenant, options.request_id}, entry->info.id);
  }
  MoveExpiry(entry, std::exchange(entry->info.expire_time_ms, 0));
  const auto tokens = static_cast<int32_t>(entry->session->tokens.size());
  if (tokens > 0) entry->info.etag = Etag(++entry->revision);
  entry->info.tokens = tokens;
  Holdings& holdings = tenants_[tenant];
  ++holdings.sessions;
  holdings.tokens += tokens;
  metrics_->sessions.fetch_add(1);
  metrics_->session_tokens.fetch_add(tokens);
}

absl::Status SessionRegistry::SetExpiry(const SessionOptions& options, SessionInfo* info) const {
  const int64_t now = limits_.now_ms();
  const int64_t longest = limits_.max_ttl.count();
  if (options.expire_time_ms) {
    if (*options.expire_time_ms <= now) {
      return InvalidField("session.expire_time", "is in the past");
    }
    info->expire_time_ms = *options.expire_time_ms;
    if (longest > 0) info->expire_time_ms = std::min(info->expire_time_ms, now + longest);
    return absl::OkStatus();
  }
  info->ttl_ms = options.ttl.value_or(limits_.default_ttl).count();
  if (info->ttl_ms < 0 || (options.ttl && info->ttl_ms == 0)) {
    return InvalidField("session.ttl", "must be positive");
  }
  if (longest > 0 && (info->ttl_ms == 0 || info->ttl_ms > longest)) info->ttl_ms = longest;
  if (info->ttl_ms > 0) info->expire_time_ms = EndOfLife(now, info->ttl_ms);
  return absl::OkStatus();
}

void SessionRegistry::Erase(Sessions::iterator it) {
  const Entry& entry = it->second;
  const std::string& tenant = entry.session->tenant;
  metrics_->sessions.fetch_sub(1);
  metrics_->session_tokens.fetch_sub(entry.info.tokens);
  if (entry.info.expire_time_ms != 0) expiries_.erase(entry.expiry);
  if (!entry.request_id.empty()) by_request_.erase({tenant, entry.request_id});
  const auto holdings = tenants_.find(tenant);
  holdings->second.tokens -= entry.info.tokens + entry.held;
  if (--holdings->second.sessions == 0) tenants_.erase(holdings);
  sessions_.erase(it);
}

void SessionRegistry::Purge() {
  const int64_t now = limits_.now_ms();
  for (auto next = expiries_.begin(); next != expiries_.end() && next->first <= now;) {
    const auto it = sessions_.find(next->second);
    ++next;
    if (it->second.info.busy) continue;  // until the claim ends
    expired_.push_back(it->second.session);
    metrics_->sessions_expired.fetch_add(1);
    Erase(it);
  }
}

void SessionRegistry::Renew(Entry* entry) {
  SessionInfo& info = entry->info;
  if (info.ttl_ms == 0) return;
  auto expiry = expiries_.extract(entry->expiry);  // moved without allocating
  info.expire_time_ms = EndOfLife(limits_.now_ms(), info.ttl_ms);
  expiry.value().first = info.expire_time_ms;
  entry->expiry = expiries_.insert(std::move(expiry)).position;
}

void SessionRegistry::MoveExpiry(Entry* entry, int64_t time_ms) {
  const int64_t before = entry->info.expire_time_ms;
  if (time_ms == before) return;
  const auto added =
      time_ms == 0 ? expiries_.end() : expiries_.emplace(time_ms, entry->info.id).first;
  if (before != 0) expiries_.erase(entry->expiry);
  entry->expiry = added;
  entry->info.expire_time_ms = time_ms;
}

void SessionRegistry::PublishContent(Entry* entry) {
  const auto tokens = static_cast<int32_t>(entry->session->tokens.size());
  if (tokens == entry->info.tokens) return;
  metrics_->session_tokens.fetch_add(tokens - entry->info.tokens);
  tenants_[entry->session->tenant].tokens += tokens - entry->info.tokens;
  entry->info.tokens = tokens;
  entry->info.update_time_ms = limits_.now_ms();
  entry->info.etag = Etag(++entry->revision);
}

}  // namespace spotd::engine
