// Whether a model and its KV cache fit on a device that has memory of its own. Said at start, with
// the figures, before anything large is loaded.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/model/model_config.h"
#include "runtime/model/selector.h"

namespace spotd::server {

// Kept free beside weights and KV: what steps allocate when they first run.
inline constexpr size_t kDeviceReserve = size_t{1} << 30;
// The least KV that is taken where no size is wished for, on a device or a host.
inline constexpr size_t kSmallestKvMemory = size_t{64} << 20;

// Bytes of the matrices on a device, which holds every type of weight in its activation type.
// `selector` may be null.
size_t DeviceWeightBytes(const model::ModelConfig& model, const model::SelectorConfig* selector,
                         const kernels::Backend& device);

// RESOURCE_EXHAUSTED when weights and the reserve are more than what is free. OK for a host.
absl::Status CheckModelFits(const model::ModelConfig& model, const model::SelectorConfig* selector,
                            const kernels::Backend& device);

// Once the weights are loaded: `wanted` bytes of KV, or without a wish (0) nine tenths of what is
// free beside the reserve. RESOURCE_EXHAUSTED when it is not there. Not for a host.
absl::StatusOr<size_t> DeviceKvMemory(size_t wanted, const kernels::Backend& device);

// Why a GPU that this machine has is not used by a server that took the host for want of it; empty
// when it has none. `control_node` is what its driver makes.
std::string WhyGpuIsUnused(const std::string& control_node = "/dev/nvidiactl");

}  // namespace spotd::server
