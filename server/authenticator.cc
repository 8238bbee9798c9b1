#include "server/authenticator.h"

#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_context.h>

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/errors.h"
#include "server/log.h"
#include "server/small_file.h"

namespace spotd::server {
namespace {

constexpr std::string_view kScheme = "bearer ";

absl::Status Unauthenticated(const char* reason, std::string message) {
  return engine::MakeError(absl::StatusCode::kUnauthenticated, std::move(message),
                           {.reason = reason, .field = "", .metadata = {}, .retry_after = {}});
}

bool StartsWithScheme(std::string_view header) {
  if (header.size() < kScheme.size()) return false;
  return std::equal(kScheme.begin(), kScheme.end(), header.begin(), [](char want, char c) {
    return want == (c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  });
}

// The one value of "authorization"; empty when there is none or several.
template <typename Metadata>
std::string_view AuthorizationOf(const Metadata& metadata) {
  const auto [begin, end] = metadata.equal_range("authorization");
  if (begin == end || std::next(begin) != end) return {};
  return {begin->second.data(), begin->second.size()};
}

absl::StatusOr<Identity> IdentifyByCertificate(const grpc::CallbackServerContext& call) {
  const auto context = call.auth_context();
  const std::vector<grpc::string_ref> names = context == nullptr
                                                  ? std::vector<grpc::string_ref>()
                                                  : context->FindPropertyValues("x509_common_name");
  if (names.size() != 1) {
    return Unauthenticated(kCertificateUnusable,
                           "a client certificate with a common name is needed");
  }
  const std::string tenant(names[0].data(), names[0].size());
  if (!IsTenantName(tenant)) {
    return Unauthenticated(kCertificateUnusable,
                           "the client certificate's common name is not a tenant: 1 to 63 letters, "
                           "digits, '.', '_' or '-'");
  }
  return Identity{.tenant = tenant};
}

class HealthGuard final : public grpc::AuthMetadataProcessor {
 public:
  explicit HealthGuard(const Authenticator& authenticator) : authenticator_(authenticator) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* /*context*/,
                       OutputMetadata* /*consumed*/, OutputMetadata* /*response*/) override {
    const auto path = metadata.find(":path");
    // Services of spotd answer for themselves, with details that this place cannot send.
    if (path != metadata.end() && path->second.starts_with("/spotd.")) return grpc::Status::OK;
    if (authenticator_.IdentifyByToken(AuthorizationOf(metadata)).ok()) return grpc::Status::OK;
    return {grpc::StatusCode::UNAUTHENTICATED, "a valid bearer token is needed"};
  }

 private:
  const Authenticator& authenticator_;
};

}  // namespace

Authenticator::Authenticator(const Options& options, std::string text, TokenFile tokens)
    : options_(options), last_seen_(std::move(text)) {
  if (options_.token_file.empty()) return;
  tokens_ = std::make_shared<const TokenFile>(std::move(tokens));
  watcher_.emplace(options_.reload_interval, [this] { ReloadIfChanged(); });
}

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(const Options& options) {
  std::string text;
  TokenFile tokens;
  if (!options.token_file.empty()) {
    SPOTD_ASSIGN_OR_RETURN(text, ReadSmallFile(options.token_file));
    SPOTD_ASSIGN_OR_RETURN(tokens, TokenFile::Parse(text, options.token_file));
  }
  return std::unique_ptr<Authenticator>(
      new Authenticator(options, std::move(text), std::move(tokens)));
}

void Authenticator::ReloadIfChanged() {
  const absl::StatusOr<std::string> text = ReadSmallFile(options_.token_file);
  std::string seen = text.ok() ? *text : std::string(text.status().message());
  if (std::exchange(last_seen_, seen) == seen) return;
  absl::StatusOr<TokenFile> tokens =
      text.ok() ? TokenFile::Parse(*text, options_.token_file) : text.status();
  if (!tokens.ok()) {
    Log(LogLevel::kError, "the token file was not reloaded: the old tokens stay in force",
        {{"error", std::string(tokens.status().message())}});
    return;
  }
  Log(LogLevel::kInfo, "token file reloaded",
      {{"file", options_.token_file}, {"tokens", Concat(tokens->size())}});
  std::lock_guard lock(mutex_);
  tokens_ = std::make_shared<const TokenFile>(*std::move(tokens));
}

absl::StatusOr<Identity> Authenticator::Identify(const grpc::CallbackServerContext& call) const {
  if (options_.token_file.empty()) return IdentifyByCertificate(call);
  return IdentifyByToken(AuthorizationOf(call.client_metadata()));
}

absl::StatusOr<Identity> Authenticator::IdentifyByToken(std::string_view authorization) const {
  if (!StartsWithScheme(authorization)) {
    return Unauthenticated(kTokenMissing, "a call needs one \"authorization: Bearer TOKEN\"");
  }
  std::shared_ptr<const TokenFile> tokens;
  {
    std::lock_guard lock(mutex_);
    tokens = tokens_;
  }
  const std::optional<std::string> tenant =
      tokens == nullptr ? std::nullopt : tokens->TenantOf(authorization.substr(kScheme.size()));
  if (!tenant.has_value()) return Unauthenticated(kTokenInvalid, "the bearer token is not known");
  return Identity{.tenant = *tenant};
}

std::shared_ptr<grpc::AuthMetadataProcessor> NewHealthGuard(const Authenticator& authenticator) {
  return std::make_shared<HealthGuard>(authenticator);
}

}  // namespace spotd::server
