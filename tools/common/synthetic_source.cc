#include "tools/common/synthetic_source.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace spotd::tools {
namespace {

struct Geometry {
  std::string_view name;
  std::string_view architecture;
  int32_t layers;
  int32_t hidden;
  int32_t ffn_hidden;
  int32_t q_heads;
  int32_t kv_heads;
  int32_t vocab;
  bool tied;
  double theta;
};

constexpr Geometry kGeometries[] = {
    {"tiny", "qwen3", 2, 256, 512, 4, 2, 1024, true, 1e6},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 151936, true, 1e6},
    {"qwen3-4b", "qwen3", 36, 2560, 9728, 32, 8, 151936, true, 1e6},
    {"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 151936, false, 1e6},
    {"qwen3-14b", "qwen3", 40, 5120, 17408, 40, 8, 151936, false, 1e6},
    {"qwen3-32b", "qwen3", 64, 5120, 25600, 64, 8, 151936, false, 1e6},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128256, false, 5e5},
};
constexpr int32_t kHeadDim = 128;
constexpr int32_t kContext = 1 << 20;
constexpr size_t kPeriod = size_t{16} << 20;  // the random numbers repeat after this many
constexpr float kDeviation = 0.02f;           // of a weight, as models are initialised

model::ModelConfig ConfigOf(const Geometry& geometry) {
  model::ModelConfig config;
  config.name = "synthetic-" + std::string(geometry.name);
  config.architecture = geometry.architecture;
  config.layers = geometry.layers;
  config.hidden = geometry.hidden;
  config.ffn_hidden = geometry.ffn_hidden;
  config.q_heads = geometry.q_heads;
  config.kv_heads = geometry.kv_heads;
  config.head_dim = kHeadDim;
  config.vocab = geometry.vocab;
  config.context_length = kContext;
  config.norm_eps = 1e-6f;
  config.rope.theta = geometry.theta;
  config.rope.rotary_dim = kHeadDim;
  config.qk_norm = geometry.architecture == "qwen3";
  config.tied_embeddings = geometry.tied;
  return config;
}

bool EndsWith(const std::string& text, std::string_view end) {
  return text.size() >= end.size() &&
         std::string_view(text).substr(text.size() - end.size()) == end;
}

class SyntheticSource final : public model::ModelSource {
 public:
  explicit SyntheticSource(model::ModelConfig config)
      : config_(std::move(config)), path_("synthetic " + config_.name) {
    const auto hidden = static_cast<size_t>(config_.hidden);
    weights_.resize(
        std::max(static_cast<size_t>(config_.vocab), static_cast<size_t>(config_.ffn_hidden)) *
        hidden);
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, kDeviation);
    const size_t period = std::min(kPeriod, weights_.size());
    for (size_t i = 0; i < period; ++i) weights_[i] = ToBf16(normal(random));
    for (size_t i = period; i < weights_.size(); i += period) {
      std::memcpy(&weights_[i], weights_.data(),
                  std::min(period, weights_.size() - i) * sizeof(Bf16));
    }
    ones_.assign(static_cast<size_t>(std::max(config_.hidden, kHeadDim)), ToBf16(1.0f));
  }

  const model::ModelConfig& config() const override { return config_; }
  bool HasTensor(const std::string& name) const override { return !ShapeOf(name).empty(); }
  bool interleaved_qk_rows() const override { return false; }
  const text::TokenizerData& tokenizer_data() const override { return tokenizer_; }
  const std::string& path() const override { return path_; }

  absl::StatusOr<model::TensorView> Tensor(const std::string& name) const override {
    std::vector<int64_t> shape = ShapeOf(name);
    if (shape.empty()) return NotFound(path_, " has no tensor ", name);
    const auto& data = shape.size() == 1 ? ones_ : weights_;
    size_t bytes = sizeof(Bf16);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    return model::TensorView{DType::kBf16, std::move(shape), data.data(), bytes};
  }

 private:
  // Empty for a tensor that the architecture does not have.
  std::vector<int64_t> ShapeOf(const std::string& name) const {
    const int64_t hidden = config_.hidden;
    const int64_t q_dim = int64_t{config_.q_heads} * kHeadDim;
    const int64_t kv_dim = int64_t{config_.kv_heads} * kHeadDim;
    if (EndsWith(name, "embed_tokens.weight") || EndsWith(name, "lm_head.weight"))
      return {config_.vocab, hidden};
    if (EndsWith(name, "q_norm.weight") || EndsWith(name, "k_norm.weight")) {
      return config_.qk_norm ? std::vector<int64_t>{kHeadDim} : std::vector<int64_t>{};
    }
    if (EndsWith(name, "norm.weight")) return {hidden};
    if (EndsWith(name, "q_proj.weight")) return {q_dim, hidden};
    if (EndsWith(name, "k_proj.weight") || EndsWith(name, "v_proj.weight")) return {kv_dim, hidden};
    if (EndsWith(name, "o_proj.weight")) return {hidden, q_dim};
    if (EndsWith(name, "gate_proj.weight") || EndsWith(name, "up_proj.weight"))
      return {config_.ffn_hidden, hidden};
    if (EndsWith(name, "down_proj.weight")) return {hidden, config_.ffn_hidden};
    return {};
  }

  model::ModelConfig config_;
  std::string path_;
  text::TokenizerData tokenizer_;
  std::vector<Bf16> weights_;
  std::vector<Bf16> ones_;
};

}  // namespace

absl::StatusOr<model::ModelConfig> SyntheticConfig(std::string_view name) {
  std::string known;
  for (const Geometry& geometry : kGeometries) {
    if (geometry.name == name) return ConfigOf(geometry);
    known += (known.empty() ? "" : ", ") + std::string(geometry.name);
  }
  return InvalidArgument("no synthetic model is called ", name, "; there are ", known);
}

absl::StatusOr<std::unique_ptr<model::ModelSource>> MakeSyntheticSource(std::string_view name) {
  SPOTD_ASSIGN_OR_RETURN(model::ModelConfig config, SyntheticConfig(name));
  return std::make_unique<SyntheticSource>(std::move(config));
}

}  // namespace spotd::tools
