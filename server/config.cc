#include "server/config.h"

#include <algorithm>
#include <fstream>

#include "kernels/core/status.h"
#include "server/small_file.h"

namespace spotd::server {
namespace {

absl::StatusOr<kernels::SelectorKeyFormat> ParseSelectorKeys(std::string_view value) {
  if (value == "bf16") return kernels::SelectorKeyFormat::kBf16;
  if (value == "int4") return kernels::SelectorKeyFormat::kInt4;
  return kernels::SelectorKeyFormat::kFp4;
}

void AddModelOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Model");
  table->AddFile("model", "A .gguf file or a Hugging Face directory. Required.", &config->model);
  table->AddFile("selector", "Trained selector (safetensors) of that model.", &config->selector);
  table->AddChoice("backend", "What computes; auto takes a GPU where there is one.",
                   {"auto", "cpu", "cuda", "ref"}, &config->backend);
  table->Add("threads", "Compute threads; 0 = one per core.", &config->threads, 0, 1024);
  table->Add("max_context", "Longest context in tokens; 0 = what the model was trained for.",
             &config->max_context, 0);
}

void AddNetworkOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Network");
  table->Add("listen", "Address HOST:PORT of the gRPC API; port 0 takes a free one.",
             &config->listen);
  table->Add("http_listen",
             "Address HOST:PORT of /metrics, /livez, /readyz (plain HTTP); \"off\" for none.",
             &config->http_listen);
  table->AddChoice("reflection", "Serve gRPC reflection; auto = on loopback addresses only.",
                   {"auto", "true", "false"}, &config->reflection);
  table->Add("max_connection_age", "Ask clients to reconnect after this long; 0s = never.",
             &config->max_connection_age);
  table->Add("keepalive_time", "Ping connections on which nothing moves this often; 0s = never.",
             &config->keepalive_time);
  table->Add("keepalive_timeout", "Close a connection that does not answer a ping for this long.",
             &config->keepalive_timeout, std::chrono::milliseconds(100));
  table->Add("min_ping_interval", "Clients may ping this often, also without calls.",
             &config->min_ping_interval);
  table->Add("drain_timeout", "On SIGTERM, running calls may finish for this long.",
             &config->drain_timeout);
  table->Add("stall_timeout", "Unhealthy after this long with work but no engine step.",
             &config->stall_timeout, std::chrono::seconds(1));
}

void AddSecurityOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Security");
  table
      ->AddFile("tls_cert", "Certificate chain (PEM) of the gRPC API; unset = plaintext.",
                &config->tls_cert)
      .Reloadable();
  table->AddFile("tls_key", "Private key (PEM) of tls_cert.", &config->tls_key)
      .Reloadable()
      .Secret();
  table
      ->AddFile("tls_client_ca",
                "Authorities (PEM) of client certificates; set = every client needs one.",
                &config->tls_client_ca)
      .Reloadable();
  table
      ->AddFile("auth_tokens", "Token hashes and their tenants; set = every call needs a token.",
                &config->auth_tokens)
      .Reloadable()
      .Secret();
  table->Add("auth_health", "Health checks and reflection need a token too.", &config->auth_health);
  table->Add("reload_interval", "How often the files above are looked at.",
             &config->reload_interval, std::chrono::seconds(1), std::chrono::hours(1));
}

void AddLogOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Log");
  table->AddChoice("log_format", "Lines on stderr; auto = text on a terminal, else json.",
                   {"auto", "text", "json"}, &config->log_format);
  table->AddChoice("log_level", "Leave out what is less important.", {"info", "warning", "error"},
                   &config->log_level);
}

void AddCacheOptions(ServerConfig* config, OptionTable* table) {
  table->Group("KV cache");
  table->Add("kv_memory",
             "Memory for the KV cache; 0 = a quarter of what is available, on a GPU nine tenths of "
             "what the weights leave.",
             &config->kv_memory);
  table->AddChoice("block_tokens", "Tokens in a KV block, the unit that decode steps choose.",
                   {"16", "32", "64"}, Concat(config->block_tokens), [config](auto value) {
                     config->block_tokens = std::stoi(std::string(value));
                     return absl::OkStatus();
                   });
  table->AddChoice("selector_keys", "How selector keys are kept.", {"bf16", "int4", "fp4"}, "int4",
                   [config](std::string_view value) -> absl::Status {
                     SPOTD_ASSIGN_OR_RETURN(config->selector_keys, ParseSelectorKeys(value));
                     return absl::OkStatus();
                   });
}

void AddPolicyOptions(ServerConfig* config, OptionTable* table) {
  PolicyFlags* policy = &config->policy;
  const model::Policy usual;
  table->Group("Default policy: which KV blocks a decode step reads");
  table->AddChoice("policy", "Unset = distilled with a selector, else quest.",
                   {"full", "distilled", "quest", "topk", "window", "oracle"}, "",
                   [policy](std::string_view value) -> absl::Status {
                     SPOTD_ASSIGN_OR_RETURN(policy->kind, model::ParsePolicy(value));
                     return absl::OkStatus();
                   });
  table->Add("p_residual", "distilled: share of the mass outside sinks and recency; above 0.",
             &policy->p_residual, usual.p_residual, 0, 1);
  table->Add("p_total", "distilled: share of all mass that is enough; above 0.", &policy->p_total,
             usual.p_total, 0, 1);
  table->Add("fraction", "quest: share of the visible blocks; above 0.", &policy->fraction,
             usual.fraction, 0, 1);
  table->Add("k_tokens", "topk: tokens read (0 = 2048); quest, oracle: replaces the share.",
             &policy->k_tokens, usual.k_tokens, 0);
  table->Add("sink_tokens", "First tokens, always read.", &policy->sink_tokens, usual.sink_tokens,
             0);
  table->Add("recency_tokens", "Newest tokens, always read.", &policy->recency_tokens,
             usual.recency_tokens, 0);
  table->Add("k_min_tokens", "Read at least this many tokens.", &policy->k_min_tokens,
             usual.k_min_tokens, 0);
  table->Add("k_max_tokens", "Read at most this many; 0 = no cap.", &policy->k_max_tokens,
             usual.k_max_tokens, 0);
  table->Add("dense_below_tokens",
             "Contexts up to this long are read densely. Unset on a GPU = at least as long as "
             "choosing costs more than it saves.",
             &policy->dense_below_tokens, usual.dense_below_tokens, 0);
}

void AddLimitOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Limits");
  table->Add("max_sessions", "Sessions held.", &config->max_sessions, 1, 1 << 20);
  table->Add("max_running", "Sequences decoded together.", &config->max_running, 1, 64);
  table->Add("max_waiting", "Requests queued; more are refused.", &config->max_waiting, 1, 1 << 20);
  table->Add("max_prefill_chunk", "Prompt tokens computed between decode steps.",
             &config->max_prefill_chunk, 1, 1 << 16);
  table->Add("max_prompt", "Bytes of input in one call.", &config->max_prompt, {1 << 10},
             {size_t{1} << 30});
}

}  // namespace

OptionTable MakeOptionTable(ServerConfig* config, std::string* config_file) {
  OptionTable table;
  AddModelOptions(config, &table);
  AddNetworkOptions(config, &table);
  AddSecurityOptions(config, &table);
  AddCacheOptions(config, &table);
  AddPolicyOptions(config, &table);
  AddLimitOptions(config, &table);
  AddServiceLimits(&config->limits, &table);
  AddLogOptions(config, &table);
  table.Group("Other", /*flags_only=*/true);
  table.AddFile("config", "YAML file of the options above, without dashes; also SPOTD_CONFIG.",
                config_file);
  table.Add("check_config", "Check options and the files they name, print what is set, and exit.",
            &config->check_config);
  table.Add("print_config_reference", "Print every option as Markdown, and exit.",
            &config->print_config_reference);
  table.Add("help", "Print this text, and exit.", &config->help);
  table.Add("version", "Print the version, and exit.", &config->version);
  return table;
}

namespace {

absl::Status ValidateAddresses(const ServerConfig& config) {
  for (const auto& [flag, address] :
       {std::pair{"--listen", &config.listen}, std::pair{"--http_listen", &config.http_listen}}) {
    if (*address == "off" && address == &config.http_listen) continue;
    const size_t colon = address->rfind(':');
    const std::string port = colon == address->npos ? "" : address->substr(colon + 1);
    const bool digits =
        !port.empty() && port.size() <= 5 &&
        std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || std::stoi(port) > 65535) {
      return InvalidArgument(flag, ": \"", *address, "\" is not HOST:PORT");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateSecurity(const ServerConfig& config) {
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return InvalidArgument("--tls_cert and --tls_key belong together: one of them is not set");
  }
  if (!config.tls_client_ca.empty() && !config.uses_tls()) {
    return InvalidArgument("--tls_client_ca needs --tls_cert and --tls_key");
  }
  if (!config.auth_tokens.empty() && !config.uses_tls() && !IsLoopback(config.listen)) {
    return InvalidArgument("--auth_tokens without --tls_cert would send tokens in the clear to ",
                           config.listen, "; set --tls_cert and --tls_key, or listen on 127.0.0.1");
  }
  if (config.auth_health && (config.auth_tokens.empty() || !config.uses_tls())) {
    return InvalidArgument("--auth_health needs --auth_tokens and --tls_cert");
  }
  return absl::OkStatus();
}

absl::Status Validate(const ServerConfig& config) {
  if (config.model.empty()) return InvalidArgument("--model is required; see --help");
  SPOTD_RETURN_IF_ERROR(ValidateAddresses(config));
  return ValidateSecurity(config);
}

// Bytes of a line of /proc/meminfo.
size_t MemoryInfo(std::string_view wanted) {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  for (std::string unit; file >> key >> kib; std::getline(file, unit)) {
    if (key == wanted) return kib << 10;
  }
  return 0;
}

template <typename T>
void SetIfGiven(const std::optional<T>& flag, T* field) {
  if (flag.has_value()) *field = *flag;
}

}  // namespace

absl::StatusOr<model::Policy> ServerConfig::DefaultPolicy(bool has_selector) const {
  model::Policy result;
  result.kind = policy.kind.value_or(has_selector ? model::PolicyKind::kDistilled
                                                  : model::PolicyKind::kQuest);
  SetIfGiven(policy.p_residual, &result.p_residual);
  SetIfGiven(policy.p_total, &result.p_total);
  SetIfGiven(policy.fraction, &result.fraction);
  SetIfGiven(policy.k_tokens, &result.k_tokens);
  SetIfGiven(policy.sink_tokens, &result.sink_tokens);
  SetIfGiven(policy.recency_tokens, &result.recency_tokens);
  SetIfGiven(policy.k_min_tokens, &result.k_min_tokens);
  SetIfGiven(policy.k_max_tokens, &result.k_max_tokens);
  SetIfGiven(policy.dense_below_tokens, &result.dense_below_tokens);
  SPOTD_RETURN_IF_ERROR(result.Validate());
  const bool needs_selector =
      result.kind == model::PolicyKind::kDistilled || result.kind == model::PolicyKind::kTopK;
  if (needs_selector && !has_selector) {
    return InvalidArgument("--policy ", model::PolicyName(result.kind), " needs --selector");
  }
  return result;
}

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return InvalidArgument("--config: ", text.status().message());
  return text;
}

absl::StatusOr<ServerConfig> ParseConfig(
    std::span<const char* const> args, const std::function<const char*(const char*)>& get,
    const std::function<absl::StatusOr<std::string>(const std::string&)>& read) {
  ServerConfig config;
  std::string config_file;
  OptionTable table = MakeOptionTable(&config, &config_file);
  SPOTD_RETURN_IF_ERROR(table.ParseFlags(args));
  if (config.help || config.version || config.print_config_reference) return config;

  if (config_file.empty()) {
    if (const char* path = get("SPOTD_CONFIG"); path != nullptr) config_file = path;
  }
  // Below flags and environment in rank.
  if (!config_file.empty()) {
    SPOTD_ASSIGN_OR_RETURN(const std::string text, read(config_file));
    SPOTD_RETURN_IF_ERROR(table.ParseYaml(text, config_file));
  }
  SPOTD_RETURN_IF_ERROR(table.ParseEnvironment(get));
  SPOTD_RETURN_IF_ERROR(table.ParseFlags(args));
  SPOTD_RETURN_IF_ERROR(Validate(config));
  config.effective = table.Effective();
  config.warnings = table.SecretWarnings();
  return config;
}

absl::Status CheckEnvironment(const char* const* environment) {
  ServerConfig config;
  std::string config_file;
  const OptionTable table = MakeOptionTable(&config, &config_file);
  for (; *environment != nullptr; ++environment) {
    SPOTD_RETURN_IF_ERROR(table.CheckEnvironmentName(*environment));
  }
  return absl::OkStatus();
}

bool IsLoopback(std::string_view address) {
  const std::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  // 127.0.0.0/8; "127.example.com" is a name like any other.
  return host.substr(0, 4) == "127." && host.find_first_not_of("0123456789.") == host.npos;
}

bool ServerConfig::ServesReflection() const {
  return reflection == "auto" ? IsLoopback(listen) : reflection == "true";
}

std::string HelpText() {
  ServerConfig config;
  std::string config_file;
  return Concat(
      "spotd: long-context inference over gRPC\n\nUsage: spotd --model PATH [options]\n\n"
      "Each option can also be set by an environment variable (--max_context: "
      "SPOTD_MAX_CONTEXT)\nor in a YAML file (--config). Flags win over the environment, and the "
      "environment over the file.\n",
      MakeOptionTable(&config, &config_file).Help());
}

std::string ReferenceText() {
  ServerConfig config;
  std::string config_file;
  return Concat(
      "# Configuration of spotd\n\n"
      "Written by `spotd --print_config_reference`; a test fails when it is not current.\n\n"
      "Each option is a flag (`--max_context 8192` or `--max_context=8192`; a switch also alone), "
      "an environment\nvariable (`SPOTD_MAX_CONTEXT`) and a key of one YAML file, a flat map that "
      "`--config` or `SPOTD_CONFIG` names:\n\n"
      "```yaml\nmodel: /models/model.gguf\nmax_context: 32768\nkv_memory: 8GiB\n```\n\n"
      "Flags win over the environment, the environment over the file, the file over the default. "
      "Unknown keys, a key given\ntwice and values out of bounds are refused with the place they "
      "stand in. A misspelt `SPOTD_` variable is refused\nwhen it is within two letters of an "
      "option; other variables of that prefix are ignored, because orchestrators set\nsome for "
      "services of that name.\n\n"
      "`spotd --check_config ...` checks options and the files they name without serving: it "
      "opens model and selector,\nparses certificates and tokens, and prints what is set and by "
      "whom. Exit code 0 is good, 2 a usage error.\n\n"
      "Sizes are written `512MiB`, `2GiB` or `1GB` (10^9), durations `500ms`, `30s`, `2m` or "
      "`1h`. Options that are \"read again\"\nname a file whose new content takes effect within "
      "`reload_interval`; everything else needs a restart.\n",
      MakeOptionTable(&config, &config_file).Reference());
}

size_t AvailableMemory() {
  return MemoryInfo("MemAvailable:");
}

size_t TotalMemory() {
  return MemoryInfo("MemTotal:");
}

}  // namespace spotd::server
