#include "server/tls.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>

#include "kernels/core/status.h"

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

absl::StatusOr<Bio> Open(const char* option, const std::string& path) {
  Bio file(BIO_new_file(path.c_str(), "r"));
  ERR_clear_error();
  if (file == nullptr) return InvalidArgument("--", option, ": cannot read ", path);
  return file;
}

absl::StatusOr<Certificate> ReadCertificate(const char* option, const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(const Bio file, Open(option, path));
  Certificate certificate(PEM_read_bio_X509(file.get(), nullptr, &NoPassword, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) {
    return InvalidArgument("--", option, ": ", path, " holds no PEM certificate");
  }
  return certificate;
}

absl::StatusOr<PrivateKey> ReadKey(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(const Bio file, Open("tls_key", path));
  PrivateKey key(PEM_read_bio_PrivateKey(file.get(), nullptr, &NoPassword, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return InvalidArgument("--tls_key: ", path, " holds no unencrypted PEM private key");
  }
  return key;
}

}  // namespace

absl::Status CheckTlsFiles(const TlsOptions& options) {
  SPOTD_ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate("tls_cert", options.cert));
  SPOTD_ASSIGN_OR_RETURN(const PrivateKey key, ReadKey(options.key));
  const bool fits = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return InvalidArgument("--tls_key: ", options.key, " is not the key of ", options.cert);
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return InvalidArgument("--tls_cert: ", options.cert, " has expired");
  }
  if (options.client_ca.empty()) return absl::OkStatus();
  return ReadCertificate("tls_client_ca", options.client_ca).status();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> NewTlsCredentials(
    const TlsOptions& options) {
  SPOTD_RETURN_IF_ERROR(CheckTlsFiles(options));
  const int64_t seconds =
      std::chrono::duration_cast<std::chrono::seconds>(options.reload_interval).count();
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      options.key, options.cert, options.client_ca,
      static_cast<unsigned>(std::max<int64_t>(1, seconds)));
  grpc::experimental::TlsServerCredentialsOptions tls(provider);
  tls.watch_identity_key_cert_pairs();
  if (!options.client_ca.empty()) {
    tls.watch_root_certs();
    tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::experimental::TlsServerCredentials(tls);
  if (credentials == nullptr) return Internal("gRPC refused the TLS options");
  return credentials;
}

}  // namespace spotd::server
