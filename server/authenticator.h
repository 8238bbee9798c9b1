// Who is calling, from a bearer token or a client certificate.
//
// With a token file, a call must carry "authorization: Bearer TOKEN" and belongs to the token's
// tenant. With client certificates alone, its tenant is the common name of the verified
// certificate. The token file is read again when it changes; a file that does not parse is logged
// and leaves the old tokens in force.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/engine/error_reasons.h"
#include "server/identity.h"
#include "server/periodic_task.h"
#include "server/token_file.h"

namespace grpc {
class AuthMetadataProcessor;
}

namespace spotd::server {

using engine::reason::kCertificateUnusable;
using engine::reason::kTokenInvalid;
using engine::reason::kTokenMissing;

// Thread-safe.
class Authenticator final : public IdentityProvider {
 public:
  struct Options {
    std::string token_file;  // empty: by client certificate
    std::chrono::milliseconds reload_interval{10'000};
  };

  // INVALID_ARGUMENT when the token file cannot be read or parsed.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Create(const Options& options);
  absl::StatusOr<Identity> Identify(const grpc::CallbackServerContext& call) const override;

  // By the value of the "authorization" header; empty: there was none.
  absl::StatusOr<Identity> IdentifyByToken(std::string_view authorization) const;

 private:
  Authenticator(const Options& options, std::string text, TokenFile tokens);

  void ReloadIfChanged();

  const Options options_;
  std::string last_seen_;  // the file's content, or why it cannot be read; the watcher's
  mutable std::mutex mutex_;
  std::shared_ptr<const TokenFile> tokens_;  // guarded by mutex_; null: by client certificate
  std::optional<PeriodicTask> watcher_;      // last: it uses all of the above
};

// Demands a token for health checks and reflection, which are not services of spotd and never ask
// an IdentityProvider. For the credentials of a TLS port; `authenticator` must outlive the server.
std::shared_ptr<grpc::AuthMetadataProcessor> NewHealthGuard(const Authenticator& authenticator);

}  // namespace spotd::server
