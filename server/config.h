// Everything an operator can set, validated before anything is loaded.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "runtime/model/policy.h"
#include "server/option_table.h"
#include "server/service_limits.h"

namespace spotd::server {

// Policy flags; what is not given keeps the library's default.
struct PolicyFlags {
  std::optional<model::PolicyKind> kind;  // absent: distilled with a selector, else quest
  std::optional<float> p_residual, p_total, fraction;
  std::optional<int32_t> k_tokens, sink_tokens, recency_tokens, k_min_tokens, k_max_tokens;
  std::optional<int32_t> dense_below_tokens;
};

struct ServerConfig {
  bool help = false;
  bool version = false;
  bool check_config = false;
  bool print_config_reference = false;

  std::string model;     // a .gguf file or a Hugging Face directory
  std::string selector;  // selector.safetensors; empty: none
  std::string backend = "auto";
  int32_t threads = 0;  // 0 = one per core
  int32_t max_context = 0;

  std::string listen = "127.0.0.1:50051";
  std::string http_listen = "127.0.0.1:9464";       // "off": no HTTP
  std::string reflection = "auto";                  // "auto", "true", "false"
  std::chrono::milliseconds max_connection_age{0};  // 0 = for ever
  std::chrono::milliseconds drain_timeout{30'000};
  std::chrono::milliseconds stall_timeout{120'000};

  ByteSize kv_memory;  // 0 = by the memory there is (model_loader.h)
  int32_t block_tokens = 16;
  kernels::SelectorKeyFormat selector_keys = kernels::SelectorKeyFormat::kInt4;
  PolicyFlags policy;

  int32_t max_sessions = 1024;
  int32_t max_running = 64;
  int32_t max_waiting = 256;
  int32_t max_prefill_chunk = 512;
  ByteSize max_prompt{16u << 20};
  ServiceLimits limits;

  std::chrono::milliseconds keepalive_time{60'000};
  std::chrono::milliseconds keepalive_timeout{20'000};
  std::chrono::milliseconds min_ping_interval{10'000};

  std::string tls_cert;  // PEM files; empty: plaintext
  std::string tls_key;
  std::string tls_client_ca;  // empty: clients need no certificate
  std::string auth_tokens;    // empty: no tokens
  bool auth_health = false;
  std::chrono::milliseconds reload_interval{10'000};

  std::string log_format = "auto";  // "auto", "text", "json"
  std::string log_level = "info";   // "info", "warning", "error"

  // What was set and by whom, as --check_config prints it.
  std::string effective;
  std::vector<std::string> warnings;

  bool uses_tls() const { return !tls_cert.empty(); }
  // Where nobody is told apart all callers are one tenant, whose share is all of a bound.
  bool has_tenants() const { return !auth_tokens.empty() || !tls_client_ca.empty(); }
  int32_t tenant_upload_percent() const {
    return has_tenants() ? limits.tenant_upload_percent : 100;
  }
  // Reflection tells a stranger every method: "auto" offers it on loopback addresses only.
  bool ServesReflection() const;
  // The server's policy for a model with or without a selector. INVALID_ARGUMENT names the flag.
  absl::StatusOr<model::Policy> DefaultPolicy(bool has_selector) const;
};

// Every option, each setting its field of `config`, or `config_file`; both must outlive the table.
OptionTable MakeOptionTable(ServerConfig* config, std::string* config_file);

// The whole of a small file; INVALID_ARGUMENT when it cannot be read or is too large for one.
absl::StatusOr<std::string> ReadConfigFile(const std::string& path);

// `args` is argv without the program, `get` is getenv, and `read` reads the configuration file.
// INVALID_ARGUMENT is a usage error and names the option.
absl::StatusOr<ServerConfig> ParseConfig(
    std::span<const char* const> args, const std::function<const char*(const char*)>& get,
    const std::function<absl::StatusOr<std::string>(const std::string&)>& read = ReadConfigFile);

// Refuses a variable of the process' environment that looks like a misspelt option.
// `environment` ends with a null, as environ does.
absl::Status CheckEnvironment(const char* const* environment);

// Whether only this machine can reach HOST:PORT.
bool IsLoopback(std::string_view address);

// What --help prints.
std::string HelpText();
// What --print_config_reference prints: docs/configuration.md.
std::string ReferenceText();

// Bytes of memory that can be had without swapping, and of all there is; 0 when the system does
// not say.
size_t AvailableMemory();
size_t TotalMemory();

}  // namespace spotd::server
