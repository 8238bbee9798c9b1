#include "tools/spotctl/connection_options.h"

#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "kernels/core/status.h"

namespace spotd::spotctl {
namespace {

constexpr char kDefaultAddress[] = "127.0.0.1:50051";
constexpr float kLongestTimeout = 86400;

std::optional<std::string> FromEnvironment(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::optional<std::string> Setting(const CommandLine& line, const char* option,
                                   const char* variable) {
  const std::optional<std::string> given = line.Get(option);
  return given.has_value() ? given : FromEnvironment(variable);
}

// The content of the file that the setting names; "" when it is not set.
absl::StatusOr<std::string> FileSetting(const CommandLine& line, const char* option,
                                        const char* variable) {
  const std::optional<std::string> path = Setting(line, option, variable);
  if (!path.has_value()) return std::string();
  std::ifstream file(*path);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) {
    return InvalidArgument("--", option, ": cannot read ", *path);
  }
  return content.str();
}

absl::StatusOr<std::string> Token(const CommandLine& line) {
  SPOTD_ASSIGN_OR_RETURN(std::string token, FileSetting(line, "token-file", "SPOTD_TOKEN_FILE"));
  if (token.empty()) token = FromEnvironment("SPOTD_TOKEN").value_or("");
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
  return token;
}

}  // namespace

std::vector<OptionSpec> ConnectionOptions() {
  return {{"address", "HOST:PORT", "the server (default $SPOTD_ADDRESS, else 127.0.0.1:50051)"},
          {"tls-ca", "FILE", "use TLS; authorities of the server's certificate ($SPOTD_TLS_CA)"},
          {"tls-cert", "FILE", "certificate to show it ($SPOTD_TLS_CLIENT_CERT)"},
          {"tls-key", "FILE", "key of that certificate ($SPOTD_TLS_CLIENT_KEY)"},
          {"token-file", "FILE", "bearer token to send ($SPOTD_TOKEN_FILE, $SPOTD_TOKEN)"},
          {"json", nullptr, "plain JSON, one object a line"},
          {"timeout", "SECONDS", "give up on a call after this long"},
          {"help", nullptr, "show this text"}};
}

bool TakesConnectionValue(std::string_view option) {
  for (const OptionSpec& spec : ConnectionOptions()) {
    if (spec.value != nullptr && option.substr(2) == spec.name) return true;
  }
  return false;
}

absl::StatusOr<ClientOptions> ReadConnectionOptions(const CommandLine& line) {
  ClientOptions options;
  options.address = Setting(line, "address", "SPOTD_ADDRESS").value_or(kDefaultAddress);
  options.json = line.Has("json");
  SPOTD_ASSIGN_OR_RETURN(options.tls_ca, FileSetting(line, "tls-ca", "SPOTD_TLS_CA"));
  SPOTD_ASSIGN_OR_RETURN(options.tls_cert, FileSetting(line, "tls-cert", "SPOTD_TLS_CLIENT_CERT"));
  SPOTD_ASSIGN_OR_RETURN(options.tls_key, FileSetting(line, "tls-key", "SPOTD_TLS_CLIENT_KEY"));
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return InvalidArgument("--tls-cert and --tls-key belong together");
  }
  if (!options.tls_cert.empty() && options.tls_ca.empty()) {
    return InvalidArgument("--tls-cert needs --tls-ca");
  }
  SPOTD_ASSIGN_OR_RETURN(options.token, Token(line));
  SPOTD_ASSIGN_OR_RETURN(const std::optional<float> timeout, line.GetFloat("timeout"));
  if (timeout.has_value()) {
    // Written so that NaN is refused.
    if (!(*timeout > 0 && *timeout <= kLongestTimeout)) {
      return InvalidArgument("--timeout: must be above 0 and at most ", kLongestTimeout,
                             " seconds");
    }
    options.timeout = std::chrono::milliseconds(static_cast<int64_t>(*timeout * 1000));
  }
  return options;
}

}  // namespace spotd::spotctl
