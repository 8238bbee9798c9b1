#include "server/tls.h"

#include <fcntl.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "kernels/core/status.h"
#include "server/log.h"
#include "server/small_file.h"

namespace spotd::server {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<&BIO_free>>;
using Certificate = std::unique_ptr<X509, Deleter<&X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<&EVP_PKEY_free>>;

// Instead of asking on the terminal.
int NoPassword(char*, int, int, void*) {
  return -1;
}

absl::StatusOr<std::string> ReadFileOf(const char* option, const std::string& path) {
  absl::StatusOr<std::string> content = ReadSmallFile(path);
  if (!content.ok()) return InvalidArgument("--", option, ": ", content.status().message());
  return content;
}

Bio InMemory(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

absl::StatusOr<Certificate> ParseCertificate(const char* option, const std::string& path,
                                             const std::string& pem) {
  Certificate certificate(PEM_read_bio_X509(InMemory(pem).get(), nullptr, &NoPassword, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) {
    return InvalidArgument("--", option, ": ", path, " holds no PEM certificate");
  }
  return certificate;
}

absl::StatusOr<PrivateKey> ParseKey(const std::string& path, const std::string& pem) {
  PrivateKey key(PEM_read_bio_PrivateKey(InMemory(pem).get(), nullptr, &NoPassword, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return InvalidArgument("--tls_key: ", path, " holds no unencrypted PEM private key");
  }
  return key;
}

absl::Status WriteAll(int file, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = write(file, content.data(), content.size());
    if (written <= 0) return ResourceExhausted("no memory for certificates");
    content.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// Closes a descriptor on every path.
class Descriptor {
 public:
  explicit Descriptor(int file) : file_(file) {}
  ~Descriptor() {
    if (file_ >= 0) close(file_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return file_; }
  int Take() { return std::exchange(file_, -1); }

 private:
  int file_;
};

int NewMemoryFile() {
  return memfd_create("spotd", MFD_CLOEXEC);
}

}  // namespace

absl::StatusOr<TlsContent> ReadTlsFiles(const TlsOptions& options) {
  SPOTD_ASSIGN_OR_RETURN(const std::string cert, ReadFileOf("tls_cert", options.cert));
  SPOTD_ASSIGN_OR_RETURN(const Certificate certificate,
                         ParseCertificate("tls_cert", options.cert, cert));
  SPOTD_ASSIGN_OR_RETURN(const std::string key_pem, ReadFileOf("tls_key", options.key));
  SPOTD_ASSIGN_OR_RETURN(const PrivateKey key, ParseKey(options.key, key_pem));
  const bool fits = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return InvalidArgument("--tls_key: ", options.key, " is not the key of ", options.cert);
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return InvalidArgument("--tls_cert: ", options.cert, " has expired");
  }
  TlsContent content;
  content.identity = Concat(cert, "\n", key_pem);
  if (options.client_ca.empty()) return content;
  SPOTD_ASSIGN_OR_RETURN(content.client_ca, ReadFileOf("tls_client_ca", options.client_ca));
  SPOTD_RETURN_IF_ERROR(
      ParseCertificate("tls_client_ca", options.client_ca, content.client_ca).status());
  return content;
}

absl::StatusOr<std::unique_ptr<MemoryFile>> MemoryFile::Create(const std::string& content) {
  Descriptor file(NewMemoryFile());
  if (file.get() < 0) return ResourceExhausted("no file descriptor for certificates");
  SPOTD_RETURN_IF_ERROR(WriteAll(file.get(), content));
  return std::unique_ptr<MemoryFile>(new MemoryFile(file.Take()));
}

MemoryFile::~MemoryFile() {
  close(file_);
}

absl::Status MemoryFile::Replace(const std::string& content) {
  const Descriptor file(NewMemoryFile());
  if (file.get() < 0) return ResourceExhausted("no file descriptor for certificates");
  SPOTD_RETURN_IF_ERROR(WriteAll(file.get(), content));
  if (dup3(file.get(), file_, O_CLOEXEC) < 0) return Internal("dup3 failed");
  return absl::OkStatus();
}

std::string MemoryFile::path() const {
  return Concat("/proc/self/fd/", file_);
}

absl::StatusOr<std::unique_ptr<TlsReloader>> TlsReloader::Create(const TlsOptions& options) {
  SPOTD_ASSIGN_OR_RETURN(TlsContent content, ReadTlsFiles(options));
  std::unique_ptr<TlsReloader> reloader(new TlsReloader(options, std::move(content)));
  SPOTD_RETURN_IF_ERROR(reloader->Start());
  return reloader;
}

// gRPC's own watcher takes whatever it reads; so it is shown files that only ever hold what has
// been checked. Certificate and key are one file, for they must change together.
absl::Status TlsReloader::Start() {
  SPOTD_ASSIGN_OR_RETURN(identity_, MemoryFile::Create(content_.identity));
  SPOTD_ASSIGN_OR_RETURN(client_ca_, MemoryFile::Create(content_.client_ca));
  const bool mutual = !options_.client_ca.empty();
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      identity_->path(), identity_->path(), mutual ? client_ca_->path() : "", /*seconds=*/1u);
  grpc::experimental::TlsServerCredentialsOptions tls(provider);
  tls.watch_identity_key_cert_pairs();
  if (mutual) {
    tls.watch_root_certs();
    tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  credentials_ = grpc::experimental::TlsServerCredentials(tls);
  if (credentials_ == nullptr) return Internal("gRPC refused the TLS options");
  watcher_.emplace(options_.reload_interval, [this] { ReloadIfChanged(); });
  return absl::OkStatus();
}

void TlsReloader::ReloadIfChanged() {
  absl::StatusOr<TlsContent> content = ReadTlsFiles(options_);
  absl::Status status = content.status();
  if (content.ok()) {
    if (*content == content_) return complaint_.clear();
    status = Publish(*content);
  }
  if (status.ok()) {
    content_ = *std::move(content);
    complaint_.clear();
    return Log(LogLevel::kInfo, "certificates reloaded", {{"file", options_.cert}});
  }
  const std::string complaint(status.message());
  if (std::exchange(complaint_, complaint) == complaint) return;
  Log(LogLevel::kError, "the certificates were not reloaded: the old ones stay in use",
      {{"error", complaint}});
}

absl::Status TlsReloader::Publish(const TlsContent& content) {
  SPOTD_RETURN_IF_ERROR(identity_->Replace(content.identity));
  return client_ca_->Replace(content.client_ca);
}

}  // namespace spotd::server
