#include "server/device_fit.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "kernels/core/device_facts.h"
#include "kernels/core/status.h"

namespace spotd::server {
namespace {

using kernels::Gibibytes;

}  // namespace

size_t DeviceWeightBytes(const model::ModelConfig& model, const model::SelectorConfig* selector,
                         const kernels::Backend& device) {
  const auto hidden = static_cast<size_t>(model.hidden);
  const auto heads = static_cast<size_t>(model.q_heads + model.kv_heads);
  const size_t attention = 2 * heads * static_cast<size_t>(model.head_dim);
  const size_t feed_forward = 3 * static_cast<size_t>(model.ffn_hidden);
  size_t choosing = 0;
  if (selector != nullptr) {
    choosing = static_cast<size_t>(selector->heads + 1) * static_cast<size_t>(selector->dim) +
               static_cast<size_t>(selector->groups) * static_cast<size_t>(selector->heads);
  }
  const size_t vocabularies = static_cast<size_t>(model.vocab) * (model.tied_embeddings ? 1u : 2u);
  const size_t columns =
      static_cast<size_t>(model.layers) * (attention + feed_forward + choosing) + vocabularies;
  return hidden * columns * device.activation_bytes();
}

absl::Status CheckModelFits(const model::ModelConfig& model, const model::SelectorConfig* selector,
                            const kernels::Backend& device) {
  const kernels::DeviceMemory memory = device.memory();
  if (memory.total == 0) return absl::OkStatus();
  const size_t weights = DeviceWeightBytes(model, selector, device);
  if (weights + kDeviceReserve + kSmallestKvMemory <= memory.free) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      Concat("the model does not fit: its weights take ", Gibibytes(weights), " on the GPU and ",
             Gibibytes(kDeviceReserve), " must stay free beside them and the KV cache; of ",
             Gibibytes(memory.total), " there are ", Gibibytes(memory.free), " free"));
}

absl::StatusOr<size_t> DeviceKvMemory(size_t wanted, const kernels::Backend& device) {
  const kernels::DeviceMemory memory = device.memory();
  const size_t room = memory.free > kDeviceReserve ? memory.free - kDeviceReserve : 0;
  const size_t bytes = wanted > 0 ? wanted : std::max(room / 10 * 9, kSmallestKvMemory);
  if (bytes <= room) return bytes;
  return absl::ResourceExhaustedError(
      Concat("--kv_memory: ", Gibibytes(bytes), " of KV do not fit: with the weights loaded ",
             Gibibytes(memory.free), " of ", Gibibytes(memory.total), " are free on the GPU, and ",
             Gibibytes(kDeviceReserve), " must stay so"));
}

std::string WhyGpuIsUnused(const std::string& control_node) {
  std::error_code ignored;
  if (!std::filesystem::exists(control_node, ignored)) return "";
  const auto gpu = kernels::CreateBackend({.name = "cuda"});
  return gpu.ok() ? "" : std::string(gpu.status().message());
}

}  // namespace spotd::server
