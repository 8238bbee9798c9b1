#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "kernels/core/status.h"
#include "server/replies.h"
#include "server/requests.h"
#include "server/service_context.h"
#include "server/status_map.h"
#include "server/unary_call.h"
#include "spotd/v1/sessions.grpc.pb.h"

namespace spotd::server {
namespace {

constexpr int32_t kDefaultPageSize = 100;
constexpr int32_t kMaxPageSize = 1000;

using S = v1::SessionService;
using RawService = S::WithRawCallbackMethod_CreateSession<S::WithRawCallbackMethod_GetSession<
    S::WithRawCallbackMethod_ListSessions<S::WithRawCallbackMethod_DeleteSession<
        S::WithRawCallbackMethod_ForkSession<S::WithRawCallbackMethod_RewindSession<
            S::WithRawCallbackMethod_UpdateSession<S::Service>>>>>>>;

// The options a client gave for a new session, its policy laid over `base`.
absl::StatusOr<engine::SessionOptions> ToOptions(const v1::Session& session,
                                                 const model::Policy& base,
                                                 const engine::Engine& engine) {
  engine::SessionOptions options;
  options.display_name = session.display_name();
  if (session.has_policy()) {
    SPOTD_ASSIGN_OR_RETURN(options.policy,
                           OverlayPolicy(session.policy(), base, engine, "session.policy"));
  }
  if (session.has_ttl()) {
    SPOTD_ASSIGN_OR_RETURN(options.ttl, ToMilliseconds(session.ttl(), "session.ttl"));
  }
  if (session.has_expire_time()) {
    SPOTD_ASSIGN_OR_RETURN(options.expire_time_ms,
                           ToUnixMilliseconds(session.expire_time(), "session.expire_time"));
  }
  return options;
}

// The fields to change: those of the mask, or else those that are set. A session as it is read has
// both ttl and expire_time; where neither was named the end follows from the time to live.
absl::StatusOr<std::set<std::string>> UpdatePaths(const v1::UpdateSessionRequest& request) {
  static const std::set<std::string> kAll = {"display_name", "policy", "ttl", "expire_time"};
  const v1::Session& session = request.session();
  const auto& named = request.update_mask().paths();
  std::set<std::string> paths(named.begin(), named.end());
  const bool all = paths.erase("*") > 0;
  for (const std::string& path : paths) {
    if (kAll.contains(path)) continue;
    return FieldError("update_mask", Concat("names \"", path,
                                            "\"; it may name display_name, policy, ttl and "
                                            "expire_time, or be *"));
  }
  if (all) paths = kAll;
  if (named.empty()) {
    if (!session.display_name().empty()) paths.insert("display_name");
    if (session.has_policy()) paths.insert("policy");
    if (session.has_ttl()) paths.insert("ttl");
    if (session.has_expire_time()) paths.insert("expire_time");
  }
  if ((all || named.empty()) && session.has_ttl()) paths.erase("expire_time");
  return paths;
}

absl::Status UpdateExpiry(const v1::Session& session, const std::set<std::string>& paths,
                          engine::SessionUpdate* update) {
  update->expiry = paths.contains("ttl") || paths.contains("expire_time");
  if (paths.contains("ttl") && session.has_ttl()) {
    SPOTD_ASSIGN_OR_RETURN(update->ttl, ToMilliseconds(session.ttl(), "session.ttl"));
  }
  if (paths.contains("expire_time") && session.has_expire_time()) {
    SPOTD_ASSIGN_OR_RETURN(update->expire_time_ms,
                           ToUnixMilliseconds(session.expire_time(), "session.expire_time"));
  }
  if (update->ttl && update->expire_time_ms) {
    return FieldError("session.expire_time", "cannot be set together with ttl");
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Session> ToReply(const absl::StatusOr<engine::SessionInfo>& session) {
  if (!session.ok()) return session.status();
  return ToProto(*session);
}

class SessionServiceImpl final : public RawService {
 public:
  explicit SessionServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* in,
                                          grpc::ByteBuffer* out) override {
    return RunUnary<v1::CreateSessionRequest, v1::Session>(
        context_, "CreateSession", {context, in, out},
        [this](const v1::CreateSessionRequest& request, const std::string& tenant) {
          return Create(request, tenant);
        });
  }
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override {
    return RunUnary<v1::GetSessionRequest, v1::Session>(
        context_, "GetSession", {context, in, out},
        [this](const v1::GetSessionRequest& request, const std::string& tenant) {
          return Get(request, tenant);
        });
  }
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* in,
                                         grpc::ByteBuffer* out) override {
    return RunUnary<v1::ListSessionsRequest, v1::ListSessionsResponse>(
        context_, "ListSessions", {context, in, out},
        [this](const v1::ListSessionsRequest& request, const std::string& tenant) {
          return List(request, tenant);
        });
  }
  grpc::ServerUnaryReactor* UpdateSession(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* in,
                                          grpc::ByteBuffer* out) override {
    return RunUnary<v1::UpdateSessionRequest, v1::Session>(
        context_, "UpdateSession", {context, in, out},
        [this](const v1::UpdateSessionRequest& request, const std::string& tenant) {
          return Update(request, tenant);
        });
  }
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* in,
                                          grpc::ByteBuffer* out) override {
    return RunUnary<v1::DeleteSessionRequest, google::protobuf::Empty>(
        context_, "DeleteSession", {context, in, out},
        [this](const v1::DeleteSessionRequest& request, const std::string& tenant) {
          return Delete(request, tenant);
        });
  }
  grpc::ServerUnaryReactor* ForkSession(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* in,
                                        grpc::ByteBuffer* out) override {
    return RunUnary<v1::ForkSessionRequest, v1::Session>(
        context_, "ForkSession", {context, in, out},
        [this](const v1::ForkSessionRequest& request, const std::string& tenant) {
          return Fork(request, tenant);
        });
  }
  grpc::ServerUnaryReactor* RewindSession(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* in,
                                          grpc::ByteBuffer* out) override {
    return RunUnary<v1::RewindSessionRequest, v1::Session>(
        context_, "RewindSession", {context, in, out},
        [this](const v1::RewindSessionRequest& request, const std::string& tenant) {
          return Rewind(request, tenant);
        });
  }

 private:
  engine::Engine& engine() const { return *context_.engine; }

  absl::StatusOr<v1::Session> Create(const v1::CreateSessionRequest& request,
                                     const std::string& tenant) const {
    SPOTD_ASSIGN_OR_RETURN(
        engine::SessionOptions options,
        ToOptions(request.session(), engine().options().default_policy, engine()));
    options.tenant = tenant;
    options.request_id = request.request_id();
    options.fingerprint = Fingerprint(request);
    return ToReply(engine().CreateSession(options));
  }

  absl::StatusOr<v1::Session> Get(const v1::GetSessionRequest& request,
                                  const std::string& tenant) const {
    SPOTD_ASSIGN_OR_RETURN(const std::string id, SessionId(request.name(), "name"));
    return ToReply(engine().GetSession({id, tenant}));
  }

  // The page token is the id of the last session of the page before.
  absl::StatusOr<v1::ListSessionsResponse> List(const v1::ListSessionsRequest& request,
                                                const std::string& tenant) const {
    if (request.page_size() < 0) return FieldError("page_size", "must not be negative");
    const int32_t limit = request.page_size() == 0
                              ? kDefaultPageSize
                              : std::min<int32_t>(request.page_size(), kMaxPageSize);
    const auto sessions = engine().ListSessions({request.page_token(), tenant}, limit + 1);
    v1::ListSessionsResponse response;
    for (const engine::SessionInfo& session : sessions) {
      if (response.sessions_size() == limit) {
        response.set_next_page_token(sessions[limit - 1].id);
        break;
      }
      *response.add_sessions() = ToProto(session);
    }
    return response;
  }

  absl::StatusOr<v1::Session> Update(const v1::UpdateSessionRequest& request,
                                     const std::string& tenant) const {
    const v1::Session& session = request.session();
    SPOTD_ASSIGN_OR_RETURN(const std::string id, SessionId(session.name(), "session.name"));
    SPOTD_ASSIGN_OR_RETURN(const std::set<std::string> paths, UpdatePaths(request));
    engine::SessionUpdate update;
    if (paths.contains("display_name")) update.display_name = session.display_name();
    if (paths.contains("policy")) {
      update.policy = [&](const model::Policy& now) -> absl::StatusOr<model::Policy> {
        if (!session.has_policy()) return engine().options().default_policy;
        return OverlayPolicy(session.policy(), now, engine(), "session.policy");
      };
    }
    SPOTD_RETURN_IF_ERROR(UpdateExpiry(session, paths, &update));
    return ToReply(engine().UpdateSession({id, tenant, session.etag()}, update));
  }

  absl::StatusOr<google::protobuf::Empty> Delete(const v1::DeleteSessionRequest& request,
                                                 const std::string& tenant) const {
    SPOTD_ASSIGN_OR_RETURN(const std::string id, SessionId(request.name(), "name"));
    SPOTD_RETURN_IF_ERROR(engine().DeleteSession({id, tenant, request.etag()}));
    return google::protobuf::Empty();
  }

  absl::StatusOr<model::Policy> PolicyOf(const engine::SessionRef& ref) const {
    SPOTD_ASSIGN_OR_RETURN(const engine::SessionInfo session, engine().GetSession(ref));
    return session.policy;
  }

  absl::StatusOr<v1::Session> Fork(const v1::ForkSessionRequest& request,
                                   const std::string& tenant) const {
    SPOTD_ASSIGN_OR_RETURN(const std::string id, SessionId(request.name(), "name"));
    model::Policy parents;  // matters where it is to change
    if (request.session().has_policy()) {
      SPOTD_ASSIGN_OR_RETURN(parents, PolicyOf({id, tenant}));
    }
    SPOTD_ASSIGN_OR_RETURN(engine::SessionOptions options,
                           ToOptions(request.session(), parents, engine()));
    v1::ForkSessionRequest asked = request;
    asked.clear_etag();
    options.request_id = request.request_id();
    options.fingerprint = Fingerprint(asked);
    return ToReply(engine().ForkSession({id, tenant, request.etag()}, options));
  }

  absl::StatusOr<v1::Session> Rewind(const v1::RewindSessionRequest& request,
                                     const std::string& tenant) const {
    SPOTD_ASSIGN_OR_RETURN(const std::string id, SessionId(request.name(), "name"));
    if (!request.has_token_count()) return FieldError("token_count", "is required");
    if (request.token_count() < 0) return FieldError("token_count", "must not be negative");
    return ToReply(engine().RewindSession({id, tenant, request.etag()}, request.token_count()));
  }

  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewSessionService(const ServiceContext& context) {
  return std::make_unique<SessionServiceImpl>(context);
}

}  // namespace spotd::server
