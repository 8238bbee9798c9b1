#include "server/security.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/server_credentials.h>

#include "kernels/core/status.h"
#include "runtime/model/model_source.h"
#include "runtime/model/selector.h"
#include "runtime/text/tokenizer.h"

namespace spotd::server {

absl::StatusOr<Security> LoadSecurity(const ServerConfig& config) {
  Security security;
  if (!config.auth_tokens.empty() || !config.tls_client_ca.empty()) {
    SPOTD_ASSIGN_OR_RETURN(security.authenticator,
                           Authenticator::Create({.token_file = config.auth_tokens,
                                                  .reload_interval = config.reload_interval}));
  }
  if (config.uses_tls()) {
    SPOTD_ASSIGN_OR_RETURN(security.tls,
                           TlsReloader::Create({.cert = config.tls_cert,
                                                .key = config.tls_key,
                                                .client_ca = config.tls_client_ca,
                                                .reload_interval = config.reload_interval}));
    security.credentials = security.tls->credentials();
    if (config.auth_health) {
      security.credentials->SetAuthMetadataProcessor(NewHealthGuard(*security.authenticator));
    }
  }
  return security;
}

absl::Status CheckFiles(const ServerConfig& config) {
  SPOTD_RETURN_IF_ERROR(LoadSecurity(config).status());
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelSource> source,
                         model::OpenModel(config.model));
  SPOTD_RETURN_IF_ERROR(text::Tokenizer::Create(source->tokenizer_data()).status());
  if (config.selector.empty()) return absl::OkStatus();
  return model::OpenSelector(config.selector, source->config()).status();
}

}  // namespace spotd::server
