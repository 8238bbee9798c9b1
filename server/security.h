// TLS and authentication as the operator configured them.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/authenticator.h"
#include "server/config.h"
#include "server/tls.h"

namespace grpc {
class ServerCredentials;
}

namespace spotd::server {

struct Security {
  std::unique_ptr<Authenticator> authenticator;  // null: every caller is the default tenant
  std::unique_ptr<TlsReloader> tls;              // null: plaintext
  // Of `tls`; null: plaintext. Not to outlive the above.
  std::shared_ptr<grpc::ServerCredentials> credentials;
};

// Reads the files. INVALID_ARGUMENT names the option or the file at fault.
absl::StatusOr<Security> LoadSecurity(const ServerConfig& config);

// What --check_config checks beyond the options themselves: that security, model and selector load.
// Takes no memory for weights.
absl::Status CheckFiles(const ServerConfig& config);

}  // namespace spotd::server
