#include "server/model_loader.h"

#include <algorithm>
#include <utility>

#include "kernels/backend.h"
#include "kernels/core/status.h"
#include "runtime/model/model_source.h"
#include "runtime/model/selector.h"
#include "runtime/model/transformer.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"
#include "server/device_fit.h"
#include "server/engine_limits.h"
#include "server/log.h"

namespace spotd::server {
namespace {

bool IsHost(const kernels::Backend& backend) {
  return backend.memory().total == 0;
}

// Hosts hand out more memory than they have, and kill whoever uses it.
absl::Status CheckHostKvMemory(const ServerConfig& config) {
  const size_t total = TotalMemory();
  if (total == 0 || config.kv_memory.bytes <= total) return absl::OkStatus();
  return InvalidArgument("--kv_memory: ", config.kv_memory.bytes >> 20, " MiB is more than the ",
                         total >> 20, " MiB of this machine");
}

// Once the weights are on the backend.
absl::StatusOr<size_t> KvMemory(const ServerConfig& config, const kernels::Backend& backend) {
  if (!IsHost(backend)) return DeviceKvMemory(config.kv_memory.bytes, backend);
  if (config.kv_memory.bytes > 0) return config.kv_memory.bytes;
  return std::max(AvailableMemory() / 4, kSmallestKvMemory);
}

absl::StatusOr<std::unique_ptr<model::SelectorSource>> LoadSelector(
    const ServerConfig& config, const model::ModelConfig& model) {
  if (config.selector.empty()) return nullptr;
  return model::OpenSelector(config.selector, model);
}

// Null for a checkpoint without a template: chat messages are then refused by the engine. A
// template that cannot be parsed costs the chat endpoint, not the model.
std::unique_ptr<text::ChatTemplate> LoadChatTemplate(const std::string& source) {
  if (source.empty()) return nullptr;
  auto parsed = text::ChatTemplate::Parse(source);
  if (parsed.ok()) return *std::move(parsed);
  Log(LogLevel::kWarning, "the model's chat template is not usable: chat messages are refused",
      {{"error", parsed.status().ToString()}});
  return nullptr;
}

model::Limits LimitsOf(const ServerConfig& config) {
  return {.max_batch = config.max_running,
          .max_prefill_chunk = config.max_prefill_chunk,
          .max_context = config.max_context,
          .block_tokens = config.block_tokens};
}

absl::StatusOr<engine::EngineOptions> EngineOptionsOf(const ServerConfig& config,
                                                      const model::Policy& policy,
                                                      const kernels::Backend& backend,
                                                      bool has_selector) {
  engine::EngineOptions options;
  SPOTD_RETURN_IF_ERROR(ApplyServiceLimits(config.limits, &options));
  options.sessions.max_sessions = config.max_sessions;
  options.max_waiting = config.max_waiting;
  options.max_running = config.max_running;
  options.max_prompt_bytes = config.max_prompt.bytes;
  options.default_policy = policy;
  options.selector_format = has_selector ? config.selector_keys : kernels::SelectorKeyFormat::kNone;
  SPOTD_ASSIGN_OR_RETURN(options.kv_memory_bytes, KvMemory(config, backend));
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<kernels::Backend>> OpenDevice(const ServerConfig& config) {
  auto device = kernels::CreateBackend({.name = config.backend, .threads = config.threads});
  if (device.ok() && config.backend == "auto" && (*device)->name() == "cpu") {
    if (const std::string why = WhyGpuIsUnused(); !why.empty())
      Log(LogLevel::kWarning, "this machine has a GPU, but it is not used", {{"why", why}});
  }
  if (device.ok()) return device;
  return absl::Status(device.status().code(),
                      Concat("--backend ", config.backend, ": ", device.status().message()));
}

absl::StatusOr<std::unique_ptr<engine::Engine>> LoadEngine(const ServerConfig& config,
                                                           const model::Policy& default_policy,
                                                           const DeviceOpener& open_device) {
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelSource> source,
                         model::OpenModel(config.model));
  SPOTD_ASSIGN_OR_RETURN(std::unique_ptr<model::SelectorSource> selector,
                         LoadSelector(config, source->config()));
  SPOTD_ASSIGN_OR_RETURN(std::unique_ptr<text::Tokenizer> tokenizer,
                         text::Tokenizer::Create(source->tokenizer_data()));
  std::unique_ptr<text::ChatTemplate> chat_template =
      LoadChatTemplate(source->tokenizer_data().chat_template);
  SPOTD_ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> device, open_device(config));
  if (IsHost(*device)) SPOTD_RETURN_IF_ERROR(CheckHostKvMemory(config));
  SPOTD_RETURN_IF_ERROR(CheckModelFits(
      source->config(), selector == nullptr ? nullptr : &selector->config(), *device));
  auto backend = std::make_unique<engine::AttentionAudit>(std::move(device));
  SPOTD_ASSIGN_OR_RETURN(
      std::unique_ptr<model::Transformer> transformer,
      model::Transformer::Load(backend.get(), *source, std::move(selector), LimitsOf(config)));
  SPOTD_ASSIGN_OR_RETURN(
      engine::EngineOptions options,
      EngineOptionsOf(config, default_policy, *backend, transformer->has_selector()));
  options.audit.probe = backend.get();
  if (!config.policy.dense_below_tokens.has_value()) {
    const model::ModelConfig& model = source->config();
    options.default_policy.dense_below_tokens = model::DenseBelowTokens(
        default_policy.kind, backend->choosing_cost(), model.kv_heads, model.head_dim);
  }
  Log(LogLevel::kInfo, "model loaded",
      {{"model", source->config().name},
       {"architecture", source->config().architecture},
       {"weights_mib", Concat(transformer->weight_bytes() >> 20)},
       {"kv_mib", Concat(options.kv_memory_bytes >> 20)},
       {"backend", backend->description()}});
  return engine::Engine::Create(options, ModelId(source->config().name), std::move(backend),
                                std::move(transformer), std::move(tokenizer),
                                std::move(chat_template));
}

std::string ModelId(const std::string& name) {
  std::string id = name.empty() ? "model" : name;
  for (char& c : id) {
    const bool keep = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_' || c == '-';
    if (!keep) c = '-';
  }
  return id;
}

}  // namespace spotd::server
