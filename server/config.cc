#include "server/config.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "kernels/core/status.h"

namespace spotd::server {
namespace {

constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

absl::Status ParseSelectorKeys(std::string_view value, kernels::SelectorKeyFormat* out) {
  if (value == "bf16") {
    *out = kernels::SelectorKeyFormat::kBf16;
  } else if (value == "int4") {
    *out = kernels::SelectorKeyFormat::kInt4;
  } else if (value == "fp4") {
    *out = kernels::SelectorKeyFormat::kFp4;
  } else {
    return InvalidArgument("\"", value, "\" is none of bf16, int4, fp4");
  }
  return absl::OkStatus();
}

void AddModelOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Model");
  table->Add("model", "A .gguf file or a Hugging Face directory. Required.", &config->model);
  table->Add("selector", "Trained selector (safetensors) of that model.", &config->selector);
  table->Add("backend", "auto, cpu, cuda or ref.", &config->backend);
  table->Add("threads", "Compute threads; 0 = one per core.", &config->threads, 0, 1024);
  table->Add("max_context", "Longest context in tokens; 0 = what the model was trained for.",
             &config->max_context, 0, kNoLimit);
}

void AddNetworkOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Network");
  table->Add("listen", "Address of the gRPC API; port 0 takes a free one.", &config->listen);
  table->Add("http_listen", "Address of /metrics, /livez, /readyz; \"off\" for none.",
             &config->http_listen);
  table->Add("reflection", "Serve gRPC reflection.", &config->reflection);
  table->Add("max_connection_age", "Ask clients to reconnect after this long; 0s = never.",
             &config->max_connection_age);
  table->Add("drain_timeout", "On SIGTERM, running calls may finish for this long.",
             &config->drain_timeout);
  table->Add("stall_timeout", "Unhealthy after this long with work but no engine step.",
             &config->stall_timeout);
}

void AddCacheOptions(ServerConfig* config, OptionTable* table) {
  table->Group("KV cache");
  table->Add("kv_memory", "Memory for the KV cache; 0 = a quarter of what is available.",
             &config->kv_memory);
  table->Add("block_tokens", "16, 32 or 64",
             "Tokens in a KV block, the unit that decode steps choose (default 16)",
             [config](std::string_view value) -> absl::Status {
               if (value != "16" && value != "32" && value != "64") {
                 return InvalidArgument("\"", value, "\" is none of 16, 32, 64");
               }
               config->block_tokens = std::stoi(std::string(value));
               return absl::OkStatus();
             });
  table->Add("selector_keys", "FORMAT", "bf16, int4 or fp4 (default int4)",
             [config](std::string_view value) {
               return ParseSelectorKeys(value, &config->selector_keys);
             });
}

void AddPolicyOptions(ServerConfig* config, OptionTable* table) {
  PolicyFlags* policy = &config->policy;
  table->Group("Default policy: which KV blocks a decode step reads");
  table->Add("policy", "NAME",
             "full, distilled, quest, topk, window or oracle (default distilled with a selector, "
             "else quest)",
             [policy](std::string_view value) -> absl::Status {
               SPOTD_ASSIGN_OR_RETURN(policy->kind, model::ParsePolicy(value));
               return absl::OkStatus();
             });
  table->Add("p_residual", "distilled: share of the mass outside sinks and recency.",
             &policy->p_residual);
  table->Add("p_total", "distilled: share of all mass that is enough.", &policy->p_total);
  table->Add("fraction", "quest: share of the visible blocks.", &policy->fraction);
  table->Add("k_tokens", "topk: tokens read; quest, oracle: replaces the share.", &policy->k_tokens,
             0);
  table->Add("sink_tokens", "First tokens, always read.", &policy->sink_tokens, 0);
  table->Add("recency_tokens", "Newest tokens, always read.", &policy->recency_tokens, 0);
  table->Add("k_min_tokens", "Read at least this many tokens.", &policy->k_min_tokens, 0);
  table->Add("k_max_tokens", "Read at most this many; 0 = no cap.", &policy->k_max_tokens, 0);
  table->Add("dense_below_tokens", "Contexts up to this long are read densely.",
             &policy->dense_below_tokens, 0);
}

void AddLimitOptions(ServerConfig* config, OptionTable* table) {
  table->Group("Limits");
  table->Add("max_sessions", "Sessions held.", &config->max_sessions, 1, 1 << 20);
  table->Add("max_running", "Sequences decoded together.", &config->max_running, 1, 64);
  table->Add("max_waiting", "Requests queued; more are refused.", &config->max_waiting, 1, 1 << 20);
  table->Add("max_prefill_chunk", "Prompt tokens computed between decode steps.",
             &config->max_prefill_chunk, 1, 1 << 16);
  table->Add("max_prompt", "Bytes of input in one call.", &config->max_prompt);
}

OptionTable MakeTable(ServerConfig* config, std::string* config_file) {
  OptionTable table;
  AddModelOptions(config, &table);
  AddNetworkOptions(config, &table);
  AddCacheOptions(config, &table);
  AddPolicyOptions(config, &table);
  AddLimitOptions(config, &table);
  table.Group("Other", /*flags_only=*/true);
  table.Add("config", "YAML file of the options above, without dashes.", config_file);
  table.Add("help", "Print this text.", &config->help);
  table.Add("version", "Print the version.", &config->version);
  return table;
}

// Reads the file that --config or SPOTD_CONFIG names, below flags and environment in rank.
absl::Status ReadConfigFile(const std::string& path, OptionTable* table) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return InvalidArgument("--config: cannot read ", path);
  return table->ParseYaml(text.str(), path);
}

absl::Status Validate(const ServerConfig& config) {
  if (config.model.empty()) return InvalidArgument("--model is required; see --help");
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

absl::StatusOr<ServerConfig> ParseConfig(std::span<const char* const> args,
                                         const std::function<const char*(const char*)>& get) {
  ServerConfig config;
  std::string config_file;
  OptionTable table = MakeTable(&config, &config_file);
  SPOTD_RETURN_IF_ERROR(table.ParseFlags(args));
  if (config.help || config.version) return config;

  if (config_file.empty()) {
    if (const char* path = get("SPOTD_CONFIG"); path != nullptr) config_file = path;
  }
  if (!config_file.empty()) SPOTD_RETURN_IF_ERROR(ReadConfigFile(config_file, &table));
  SPOTD_RETURN_IF_ERROR(table.ParseEnvironment(get));
  SPOTD_RETURN_IF_ERROR(table.ParseFlags(args));
  SPOTD_RETURN_IF_ERROR(Validate(config));
  return config;
}

std::string HelpText() {
  ServerConfig config;
  std::string config_file;
  return Concat(
      "spotd: long-context inference over gRPC\n\nUsage: spotd --model PATH [options]\n\n"
      "Each option can also be set by an environment variable (--max_context: "
      "SPOTD_MAX_CONTEXT)\nor in a YAML file (--config). Flags win over the environment, and the "
      "environment over the file.\n",
      MakeTable(&config, &config_file).Help());
}

size_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  for (std::string unit; file >> key >> kib; std::getline(file, unit)) {
    if (key == "MemAvailable:") return kib << 10;
  }
  return 0;
}

}  // namespace spotd::server
