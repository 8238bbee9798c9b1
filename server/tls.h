// TLS of the gRPC endpoint: certificates from files that are read again when they change.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpc {
class ServerCredentials;
}

namespace spotd::server {

struct TlsOptions {
  std::string cert;       // PEM: the server's certificate, then its chain
  std::string key;        // PEM: its private key, not encrypted
  std::string client_ca;  // PEM: authorities of client certificates; empty: none is asked for
  std::chrono::milliseconds reload_interval{10'000};
};

// INVALID_ARGUMENT names the file that cannot be read or parsed, or says that the key is not the
// certificate's or that the certificate has expired.
absl::Status CheckTlsFiles(const TlsOptions& options);

// Credentials for a listening port. When files change, new connections use them within
// `reload_interval`; handshakes fail while the files are broken, and work again when they are put
// right. Connections that stand go on.
// With a client_ca, the handshake of a client without a certificate from it fails. TLS 1.2 is the
// oldest version spoken.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> NewTlsCredentials(
    const TlsOptions& options);

}  // namespace spotd::server
