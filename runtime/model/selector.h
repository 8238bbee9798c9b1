// The distilled selector's weights (DESIGN 3): a safetensors file that belongs to one base model.
//
//   layers.{i}.selector.q.weight [heads * dim, hidden]   layers.{i}.selector.k.weight [dim, hidden]
//   layers.{i}.selector.w.weight [groups * heads, hidden]
//   layers.{i}.selector.k_norm.weight [dim]
//   metadata (strings): format_version, base_model, config_hash, heads, dim, rope_theta,
//   block_size, training_tokens, training_length; optional groups (1 when absent), calibration
//   (score scale: one number, or one a layer separated by commas) and, with a number for each
//   layer, budget_p_residual, budget_p_total, budget_k_min_tokens
//
// In format_version 2 matrices may be kept in 8 bits: see selector_int8.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/formats/mapped_file.h"
#include "runtime/model/model_config.h"
#include "runtime/model/model_source.h"
#include "runtime/model/policy.h"

namespace spotd::model {

inline constexpr int32_t kMaxSelectorHeads = 64;

struct SelectorConfig {
  int32_t heads = 4;  // 1..kMaxSelectorHeads
  // How many choices a layer makes: 1, shared by all its heads, or one for each KV head of the
  // model. Groups share queries and keys and have mixing weights of their own.
  int32_t groups = 1;
  int32_t dim = 64;
  double rope_theta = 10000.0;
  int32_t block_size = 16;
  int64_t training_tokens = 0;
  int32_t training_length = 0;
  // [layers] Multiply the scores before the softmax: the inverse of each layer's calibration
  // temperature. Empty when not calibrated.
  std::vector<float> score_scales = {};
  std::vector<LayerBudget> budget = {};  // [layers]; empty when not calibrated
};

class SelectorSource {
 public:
  virtual ~SelectorSource() = default;
  virtual const SelectorConfig& config() const = 0;
  // `part` is "q", "k", "w" or "k_norm".
  virtual absl::StatusOr<TensorView> Tensor(int32_t layer, const std::string& part) const = 0;
};

// Refuses (FAILED_PRECONDITION) a selector made for another model, naming the field that differs
// and both values.
absl::StatusOr<std::unique_ptr<SelectorSource>> OpenSelector(const std::string& path,
                                                             const ModelConfig& model);
// The same of a file that is open.
absl::StatusOr<std::unique_ptr<SelectorSource>> ReadSelector(formats::MappedFile mapped,
                                                             const ModelConfig& model);

// A selector with random weights for `model`, in memory: tests and benchmarks of models without a
// trained one.
std::unique_ptr<SelectorSource> RandomSelector(const ModelConfig& model,
                                               const SelectorConfig& config, uint64_t seed);

}  // namespace spotd::model
