// TLS of the gRPC endpoint: certificates from files that are read again when they change.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/periodic_task.h"

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

// What the files hold.
struct TlsContent {
  std::string identity;   // PEM: certificate, chain and key
  std::string client_ca;  // PEM
  bool operator==(const TlsContent&) const = default;
};

// INVALID_ARGUMENT names the file that cannot be read or parsed, or says that the key is not the
// certificate's or that the certificate has expired.
absl::StatusOr<TlsContent> ReadTlsFiles(const TlsOptions& options);

// A file in memory that others open by a path which never changes. Its content is replaced as a
// whole: who opens the path gets the old or the new one. Secrets in it touch no disk.
class MemoryFile {
 public:
  static absl::StatusOr<std::unique_ptr<MemoryFile>> Create(const std::string& content);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  absl::Status Replace(const std::string& content);
  std::string path() const;

 private:
  explicit MemoryFile(int file) : file_(file) {}
  const int file_;
};

// Credentials for a listening port. When the files change to something that ReadTlsFiles accepts,
// new connections use it within `reload_interval` and a second; anything else is logged and changes
// nothing. Connections that stand go on.
//
// With a client_ca, the handshake of a client without a certificate from it fails. TLS 1.2 is the
// oldest version spoken.
class TlsReloader {
 public:
  static absl::StatusOr<std::unique_ptr<TlsReloader>> Create(const TlsOptions& options);

  // Not to outlive this.
  const std::shared_ptr<grpc::ServerCredentials>& credentials() const { return credentials_; }

 private:
  TlsReloader(const TlsOptions& options, TlsContent content)
      : options_(options), content_(std::move(content)) {}
  absl::Status Start();
  void ReloadIfChanged();
  absl::Status Publish(const TlsContent& content);

  const TlsOptions options_;
  TlsContent content_;     // in use; the watcher's once it runs
  std::string complaint_;  // about the files as they are; the watcher's
  std::unique_ptr<MemoryFile> identity_;
  std::unique_ptr<MemoryFile> client_ca_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::optional<PeriodicTask> watcher_;  // last: it uses all of the above
};

}  // namespace spotd::server
