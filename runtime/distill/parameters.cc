#include "runtime/distill/parameters.h"

#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::distill {
namespace {

constexpr int kTensorsPerLayer = 4;

std::vector<ParameterSlice> SlicesOf(const model::ModelConfig& model,
                                     const model::SelectorConfig& selector) {
  std::vector<ParameterSlice> slices;
  int64_t begin = 0;
  for (int32_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = Concat("layers.", layer, ".selector.");
    const std::pair<const char*, std::vector<int64_t>> parts[kTensorsPerLayer] = {
        {"q", {int64_t{selector.heads} * selector.dim, model.hidden}},
        {"k", {selector.dim, model.hidden}},
        {"w", {int64_t{selector.groups} * selector.heads, model.hidden}},
        {"k_norm", {selector.dim}}};
    for (const auto& [part, shape] : parts) {
      const int64_t count =
          std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      slices.push_back({prefix + part + ".weight", shape, layer, begin, count});
      begin += count;
    }
  }
  return slices;
}

}  // namespace

absl::StatusOr<Parameters> Parameters::Create(kernels::Backend* backend,
                                              const model::ModelConfig& model,
                                              const model::SelectorConfig& selector,
                                              const std::vector<float>& scales, uint64_t seed) {
  Parameters parameters;
  parameters.backend_ = backend;
  parameters.slices_ = SlicesOf(model, selector);
  parameters.count_ = parameters.slices_.back().begin + parameters.slices_.back().count;
  const size_t bytes = static_cast<size_t>(parameters.count_) * sizeof(float);
  for (kernels::Buffer* buffer : {&parameters.weights_, &parameters.gradients_,
                                  &parameters.first_moment_, &parameters.second_moment_}) {
    SPOTD_ASSIGN_OR_RETURN(*buffer, backend->Allocate(bytes));
  }
  std::vector<float> initial(static_cast<size_t>(parameters.count_), 1.0f);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(model.hidden)));
  for (const ParameterSlice& slice : parameters.slices_) {
    if (slice.shape.size() == 1) continue;
    const float scale = scales[static_cast<size_t>(slice.layer)];
    for (int64_t i = 0; i < slice.count; ++i)
      initial[static_cast<size_t>(slice.begin + i)] = scale * normal(random);
  }
  const std::vector<float> zeros(initial.size(), 0.0f);
  parameters.Upload(parameters.weights(), initial);
  for (float* flat :
       {parameters.gradients(), parameters.first_moment(), parameters.second_moment()}) {
    parameters.Upload(flat, zeros);
  }
  return parameters;
}

kernels::SelectorTensors Parameters::Layer(float* flat, int32_t layer) const {
  const auto at = [&](int part) {
    return flat +
           slices_[static_cast<size_t>(layer) * kTensorsPerLayer + static_cast<size_t>(part)].begin;
  };
  return {at(0), at(1), at(2), at(3)};
}

std::vector<float> Parameters::Download(const float* flat) const {
  std::vector<float> values(static_cast<size_t>(count_));
  backend_->Download(values.data(), flat, values.size() * sizeof(float));
  return values;
}

void Parameters::Upload(float* flat, const std::vector<float>& values) const {
  backend_->Upload(flat, values.data(), values.size() * sizeof(float));
}

}  // namespace spotd::distill
