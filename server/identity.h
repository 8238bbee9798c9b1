// Who is calling: the tenant that a call's sessions, queue share and limits belong to.
//
// An operator chooses one provider when the server starts; services and engine see only the
// tenant's name. Without a provider every caller is the tenant "default".
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/engine/tenant.h"

namespace grpc {
class CallbackServerContext;
}

namespace spotd::server {

struct Identity {
  // Never sent by the client as such: derived from what it proves. Not empty, printable, at most
  // 128 bytes. Sessions of one tenant do not exist for another.
  std::string tenant = engine::kDefaultTenant;
};

class IdentityProvider {
 public:
  virtual ~IdentityProvider() = default;
  // Called once for each call of a spotd service, before its request is looked at (health checks
  // and reflection are not asked about). UNAUTHENTICATED or PERMISSION_DENIED, made with
  // engine::MakeError so that it carries a reason, refuses the call. Any thread, several at once;
  // must not block.
  virtual absl::StatusOr<Identity> Identify(const grpc::CallbackServerContext& call) const = 0;
};

}  // namespace spotd::server
