// 10^5 random operations of several tenants on the session registry, against a naive model: who
// sees which session, what is refused and why, what repeats, what expires, and what is counted.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <set>

#include "runtime/engine/session_registry.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

constexpr int kOperations = 100'000;
constexpr int kMaxSessions = 20;
constexpr int kMaxSessionsOfTenant = 8;
constexpr int64_t kMaxTokensOfTenant = 160;

struct Expected {
  std::string tenant;
  std::vector<int32_t> tokens;
  std::string etag;
  std::string request_id;
  int64_t ttl = 0;
  int64_t expires = 0;  // 0 = never
  int64_t held = 0;     // tokens more than it has
  bool busy = false;
};

class RegistryModel {
 public:
  explicit RegistryModel(uint64_t seed) : random_(seed) {
    kvstore::KvLayout layout;
    layout.layers = 1;
    layout.kv_heads = 1;
    layout.head_dim = 8;
    store_ = *kvstore::KvStore::Create(backend_.get(), layout, 16 * layout.BytesPerBlock());
    tokenizer_ = *text::Tokenizer::Create(testing::TinySource(1).tokenizer_data());
    SessionLimits limits;
    limits.max_sessions = kMaxSessions;
    limits.tenant = {.max_sessions = kMaxSessionsOfTenant,
                     .max_session_tokens = kMaxTokensOfTenant};
    limits.now_ms = [this] { return now_; };
    registry_ = std::make_unique<SessionRegistry>(store_.get(), &metrics_, limits);
  }

  void Run() {
    for (int i = 0; i < kOperations && !::testing::Test::HasFailure(); ++i) {
      SCOPED_TRACE(i);
      Operate();
      Check();
    }
    for (const auto& [what, count] : happened_) EXPECT_GT(count, 100) << what;
    EXPECT_EQ(happened_.size(), 15u) << "something never happened";
    claims_.clear();
    registry_.reset();
  }

 private:
  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  std::string AnyTenant() { return std::string(1, static_cast<char>('a' + Uniform(0, 2))); }
  void Saw(const std::string& what) { ++happened_[what]; }

  // Mostly one that exists; sometimes another tenant's, or none.
  SessionRef AnyRef() {
    if (sessions_.empty() || Uniform(0, 30) == 0) return {"none", AnyTenant()};
    auto it = sessions_.begin();
    std::advance(it, Uniform(0, static_cast<int>(sessions_.size()) - 1));
    SessionRef ref(it->first, Uniform(0, 9) == 0 ? AnyTenant() : it->second.tenant);
    const int etag = Uniform(0, 7);
    if (etag == 0) ref.etag = "stale";
    if (etag == 1) ref.etag = it->second.etag;
    return ref;
  }

  bool Alive(const Expected& session) const {
    return session.busy || session.expires == 0 || now_ < session.expires;
  }
  // Null: must be SESSION_NOT_FOUND.
  Expected* Visible(const SessionRef& ref) {
    const auto it = sessions_.find(ref.id);
    if (it == sessions_.end() || it->second.tenant != ref.tenant || !Alive(it->second)) {
      return nullptr;
    }
    return &it->second;
  }
  // The reason with which an operation on `ref` must fail; empty: it goes on.
  std::string Refusal(const SessionRef& ref, bool needs_idle) {
    const Expected* session = Visible(ref);
    if (session == nullptr) return reason::kSessionNotFound;
    if (!ref.etag.empty() && ref.etag != session->etag) return reason::kEtagMismatch;
    if (needs_idle && session->busy) return reason::kSessionBusy;
    return "";
  }
  int64_t TokensOf(const std::string& tenant) const {
    int64_t tokens = 0;
    for (const auto& [id, session] : sessions_) {
      if (session.tenant != tenant) continue;
      tokens += static_cast<int64_t>(session.tokens.size()) + session.held;
    }
    return tokens;
  }
  // What the registry does when it must know what there is.
  void Purge() {
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      it = Alive(it->second) ? std::next(it) : sessions_.erase(it);
    }
  }
  std::string RoomRefusal(const std::string& tenant) {
    Purge();
    if (sessions_.size() >= kMaxSessions) return reason::kSessionLimit;
    int held = 0;
    for (const auto& [id, session] : sessions_) held += session.tenant == tenant;
    return held >= kMaxSessionsOfTenant ? reason::kTenantSessionLimit : "";
  }
  Expected* MadeFor(const std::string& tenant, const std::string& request_id) {
    for (auto& [id, session] : sessions_) {
      const bool made = session.tenant == tenant && session.request_id == request_id;
      if (made && !request_id.empty() && Alive(session)) return &session;
    }
    return nullptr;
  }
  void Renew(Expected* session) {
    if (session->ttl > 0) session->expires = now_ + session->ttl;
  }

  SessionOptions AnyOptions(const std::string& tenant) {
    SessionOptions options;
    options.tenant = tenant;
    if (Uniform(0, 2) == 0) options.request_id = "r" + std::to_string(Uniform(0, 9));
    const int ending = Uniform(0, 3);
    if (ending == 0) options.expire_time_ms = now_ + Uniform(1, 300);
    if (ending == 1) options.ttl = std::chrono::milliseconds(Uniform(1, 300));
    return options;
  }
  void Made(const SessionInfo& info, const SessionOptions& options, std::vector<int32_t> tokens) {
    Expected session;
    session.tenant = options.tenant;
    session.tokens = std::move(tokens);
    session.request_id = options.request_id;
    session.ttl = options.ttl ? options.ttl->count() : 0;
    session.expires = options.expire_time_ms.value_or(options.ttl ? now_ + session.ttl : 0);
    session.etag = info.etag;
    ASSERT_TRUE(sessions_.emplace(info.id, std::move(session)).second) << "an id given twice";
  }

  void Create() {
    const SessionOptions options = AnyOptions(AnyTenant());
    const Expected* made = MadeFor(options.tenant, options.request_id);
    const auto info = registry_->Create(options, {});
    if (made != nullptr) {
      ASSERT_TRUE(info.ok());
      ASSERT_EQ(&sessions_.at(info->id), made);
      return Saw("create repeated");
    }
    const std::string refusal = RoomRefusal(options.tenant);
    if (!refusal.empty()) {
      ASSERT_EQ(Reason(info.status()), refusal);
      return Saw(refusal);
    }
    ASSERT_TRUE(info.ok()) << info.status();
    Made(*info, options, {});
    Saw("create");
  }

  void Fork() {
    const SessionRef ref = AnyRef();
    SessionOptions options = AnyOptions(ref.tenant);
    const Expected* made = MadeFor(ref.tenant, options.request_id);
    const auto fork = registry_->Fork(ref, options, [](auto, auto) {});
    if (made != nullptr) {
      ASSERT_TRUE(fork.ok());
      ASSERT_EQ(&sessions_.at(*fork), made);
      return;
    }
    if (const std::string refusal = Refusal(ref, true); !refusal.empty()) {
      ASSERT_EQ(Reason(fork.status()), refusal);
      return Saw(refusal);
    }
    const std::vector<int32_t> tokens = sessions_.at(ref.id).tokens;
    if (TokensOf(ref.tenant) + static_cast<int64_t>(tokens.size()) > kMaxTokensOfTenant) {
      ASSERT_EQ(Reason(fork.status()), reason::kTenantTokenLimit);
      return Saw(reason::kTenantTokenLimit);
    }
    if (const std::string refusal = RoomRefusal(ref.tenant); !refusal.empty()) {
      ASSERT_EQ(Reason(fork.status()), refusal);
      return;
    }
    ASSERT_TRUE(fork.ok()) << fork.status();
    Renew(&sessions_.at(ref.id));
    Made(*registry_->Get({*fork, ref.tenant}), options, tokens);
    Saw("fork");
  }

  void Rewind() {
    const SessionRef ref = AnyRef();
    const Expected* session = Visible(ref);
    const int length = session == nullptr ? 0 : static_cast<int>(session->tokens.size());
    const int keep = Uniform(0, length + (Uniform(0, 9) == 0 ? 3 : 0));
    const absl::Status status = registry_->Rewind(ref, keep, *tokenizer_, [](auto) {});
    if (const std::string refusal = Refusal(ref, true); !refusal.empty()) {
      ASSERT_EQ(Reason(status), refusal);
      return;
    }
    if (keep > length) {
      ASSERT_EQ(Reason(status), reason::kPositionOutOfRange);
      return Saw(reason::kPositionOutOfRange);
    }
    ASSERT_TRUE(status.ok()) << status;
    sessions_.at(ref.id).tokens.resize(keep);
    Renew(&sessions_.at(ref.id));
    Touched(ref, keep != length);
    Saw("rewind");
  }

  // The etag changes exactly when the tokens do, and never comes back.
  void Touched(const SessionRef& ref, bool changed) {
    Expected& session = sessions_.at(ref.id);
    const SessionInfo info = *registry_->Get({ref.id, session.tenant});
    ASSERT_EQ(info.etag != session.etag, changed);
    session.etag = info.etag;
    if (!changed) return;
    ASSERT_TRUE(etags_.insert(ref.id + info.etag).second) << "an etag used twice";
  }

  void Claim() {
    const SessionRef ref = AnyRef();
    auto claim = registry_->Claim(ref, "");
    if (const std::string refusal = Refusal({ref.id, ref.tenant}, true); !refusal.empty()) {
      ASSERT_EQ(Reason(claim.status()), refusal);
      return Saw(refusal);
    }
    if (const std::string refusal = Refusal(ref, true); !refusal.empty()) {
      ASSERT_EQ(Reason(claim.status()), refusal);
      return Saw(refusal);
    }
    ASSERT_TRUE(claim.ok()) << claim.status();
    sessions_.at(ref.id).busy = true;
    Renew(&sessions_.at(ref.id));
    claims_.emplace(ref.id, *std::move(claim));
  }

  // Whether the session of the claim may have so many tokens more than it has.
  bool Hold(const SessionClaim& claim, int more) {
    const absl::Status status =
        registry_->HoldTokens(*claim.get(), static_cast<int64_t>(claim->tokens.size()) + more);
    const auto session = sessions_.find(claim->id);
    if (session == sessions_.end()) return status.ok();
    Expected& expected = session->second;
    const int64_t room = kMaxTokensOfTenant - TokensOf(expected.tenant);
    EXPECT_EQ(status.ok(), more - expected.held <= std::max<int64_t>(room, 0));
    if (status.ok()) expected.held = std::max<int64_t>(expected.held, more);
    Saw(status.ok() ? "held" : "held no more");
    return status.ok();
  }

  void EndClaim() {
    if (claims_.empty()) return;
    auto it = claims_.begin();
    std::advance(it, Uniform(0, static_cast<int>(claims_.size()) - 1));
    const std::string id = it->first;
    int added = Uniform(0, 20);
    if (!Hold(it->second, added)) added = 0;
    if (Uniform(0, 2) == 0) return;  // it goes on
    for (int i = 0; i < added; ++i) it->second->tokens.push_back(i);
    it->second.End();
    claims_.erase(it);
    const auto session = sessions_.find(id);
    if (session == sessions_.end()) return Saw("ended a removed one");
    session->second.held = 0;
    for (int i = 0; i < added; ++i) session->second.tokens.push_back(i);
    Renew(&session->second);
    // Where its fixed end has passed meanwhile, nobody sees it any more.
    const bool ends_now = session->second.expires != 0 && now_ >= session->second.expires;
    if (!ends_now) {
      session->second.busy = false;
      Touched({id, session->second.tenant}, added > 0);
    }
    session->second.busy = false;
  }

  void Remove() {
    const SessionRef ref = AnyRef();
    const absl::Status status = registry_->Remove(ref, [](auto) {});
    if (const std::string refusal = Refusal(ref, false); !refusal.empty()) {
      ASSERT_EQ(Reason(status), refusal);
      return;
    }
    ASSERT_TRUE(status.ok()) << status;
    sessions_.erase(ref.id);
  }

  void Operate() {
    switch (Uniform(0, 11)) {
      case 0:
      case 1:
      case 2:
        return Create();
      case 3:
        return Fork();
      case 4:
        return Rewind();
      case 5:
      case 6:
        return Claim();
      case 7:
      case 8:
        return EndClaim();
      case 9:
        if (Uniform(0, 1) == 0) Remove();
        return;
      case 10:
        now_ += Uniform(0, 20);
        return;
      default:
        expired_ += registry_->TakeExpired().size();
        if (const size_t before = sessions_.size(); true) {
          Purge();
          if (sessions_.size() < before) Saw("expired");
        }
    }
  }

  void Check() {
    const SessionRef ref = AnyRef();
    const auto info = registry_->Get({ref.id, ref.tenant});
    const Expected* session = Visible(ref);
    ASSERT_EQ(info.ok(), session != nullptr);
    if (session != nullptr) {
      ASSERT_EQ(info->tokens, static_cast<int32_t>(session->tokens.size()));
      ASSERT_EQ(info->busy, session->busy);
      ASSERT_EQ(info->expire_time_ms, session->expires);
    }
    std::vector<std::string> listed;
    for (const SessionInfo& one : registry_->List({"", ref.tenant}, 1000)) listed.push_back(one.id);
    std::vector<std::string> expected;
    for (const auto& [id, one] : sessions_) {
      if (one.tenant == ref.tenant && Alive(one)) expected.push_back(id);
    }
    ASSERT_EQ(listed, expected);
  }

  std::mt19937_64 random_;
  int64_t now_ = 1'000'000;
  std::unique_ptr<kernels::Backend> backend_ = kernels::CreateRefBackend();
  std::unique_ptr<kvstore::KvStore> store_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  Metrics metrics_;
  std::unique_ptr<SessionRegistry> registry_;
  std::map<std::string, Expected> sessions_;
  std::map<std::string, SessionClaim> claims_;  // by session
  std::set<std::string> etags_;
  std::map<std::string, int> happened_;
  size_t expired_ = 0;
};

TEST(SessionRegistryPropertyTest, RandomOperationsAgreeWithANaiveModel) {
  RegistryModel(99).Run();
}

}  // namespace
}  // namespace spotd::engine
