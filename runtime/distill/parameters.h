// A selector's weights, gradients and optimiser moments for all layers, each one flat fp32 array in
// backend memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/distill.h"
#include "runtime/model/model_config.h"
#include "runtime/model/selector.h"

namespace spotd::distill {

// One tensor of the flat array.
struct ParameterSlice {
  std::string name;  // "layers.3.selector.q.weight"
  std::vector<int64_t> shape;
  int32_t layer = 0;
  int64_t begin = 0;  // element offset in the flat array
  int64_t count = 0;
};

class Parameters {
 public:
  // Matrices drawn from N(0, scale^2 / hidden) with the `scales` of each layer (norms 1), gradients
  // and moments 0.
  static absl::StatusOr<Parameters> Create(kernels::Backend* backend,
                                           const model::ModelConfig& model,
                                           const model::SelectorConfig& selector,
                                           const std::vector<float>& scales, uint64_t seed);

  int64_t count() const { return count_; }
  const std::vector<ParameterSlice>& slices() const { return slices_; }
  float* weights() const { return weights_.as<float>(); }
  float* gradients() const { return gradients_.as<float>(); }
  float* first_moment() const { return first_moment_.as<float>(); }
  float* second_moment() const { return second_moment_.as<float>(); }
  // The tensors of one layer inside a flat array of this layout.
  kernels::SelectorTensors Layer(float* flat, int32_t layer) const;

  std::vector<float> Download(const float* flat) const;
  void Upload(float* flat, const std::vector<float>& values) const;

 private:
  Parameters() = default;
  kernels::Backend* backend_ = nullptr;
  int64_t count_ = 0;
  std::vector<ParameterSlice> slices_;  // q, k, w, k_norm of layer 0, then of layer 1, ...
  kernels::Buffer weights_;
  kernels::Buffer gradients_;
  kernels::Buffer first_moment_;
  kernels::Buffer second_moment_;
};

}  // namespace spotd::distill
