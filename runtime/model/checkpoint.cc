#include "runtime/model/checkpoint.h"

#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/text/utf8.h"

namespace spotd::model {
namespace {

struct Range {
  std::string_view field;
  int64_t value;
  int64_t least;
  int64_t most;
};

struct NamePair {
  std::string_view hugging_face;
  std::string_view gguf;
};

// Names within a layer, behind "model.layers.{i}." and "blk.{i}.".
constexpr std::array<NamePair, 15> kLayerNames = {{
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.o_proj.bias", "attn_output.bias"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
}};
constexpr std::array<NamePair, 3> kModelNames = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};

constexpr std::string_view kHfLayerPrefix = "model.layers.";
constexpr std::string_view kGgufLayerPrefix = "blk.";

// "blk.12.attn_q.weight" with prefix "blk." -> (12, "attn_q.weight").
struct LayerName {
  int32_t layer;
  std::string_view rest;
};
std::optional<LayerName> SplitLayerName(std::string_view name, std::string_view prefix) {
  if (name.substr(0, prefix.size()) != prefix) return std::nullopt;
  name.remove_prefix(prefix.size());
  int32_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const auto digits = static_cast<size_t>(end - name.data());
  if (error != std::errc() || layer < 0 || digits == name.size() || name[digits] != '.') {
    return std::nullopt;
  }
  return LayerName{layer, name.substr(digits + 1)};
}

std::optional<std::string> Translate(std::string_view name, std::string_view NamePair::*from,
                                     std::string_view NamePair::*to, std::string_view from_prefix,
                                     std::string_view to_prefix) {
  for (const NamePair& pair : kModelNames) {
    if (pair.*from == name) return std::string(pair.*to);
  }
  const std::optional<LayerName> split = SplitLayerName(name, from_prefix);
  if (!split) return std::nullopt;
  for (const NamePair& pair : kLayerNames) {
    if (pair.*from == split->rest) return Concat(to_prefix, split->layer, ".", pair.*to);
  }
  return std::nullopt;
}

absl::Status CheckRope(const RopeConfig& rope, int32_t head_dim, const std::string& file) {
  const auto error = [&](const auto&... reason) {
    return DataLoss(file, ": rotary embedding: ", reason...);
  };
  if (rope.rotary_dim < 2 || rope.rotary_dim > head_dim || rope.rotary_dim % 2 != 0) {
    return error("rotary dimension is ", rope.rotary_dim, " with a head dimension of ", head_dim);
  }
  // Wider than any checkpoint, narrow enough for the angles to be numbers; NaN is in no range.
  const auto within = [](double value, double least, double most) {
    return value >= least && value <= most;
  };
  if (!(rope.theta > 1.0 && rope.theta <= 1e12)) return error("theta is ", rope.theta);
  if (!within(rope.factor, 1e-3, 1e6)) return error("scaling factor is ", rope.factor);
  const bool by_context = rope.scaling == RopeScaling::kYarn ||
                          (rope.scaling == RopeScaling::kLlama3 && rope.frequency_factors.empty());
  if (by_context && rope.original_context < 1) return error("original context is missing");
  if (rope.scaling == RopeScaling::kLlama3 &&
      !(rope.low_freq_factor > 0.0 && rope.high_freq_factor > rope.low_freq_factor)) {
    return error("low and high frequency factors are ", rope.low_freq_factor, " and ",
                 rope.high_freq_factor);
  }
  if (!within(rope.beta_fast, 1e-6, 1e6) || !within(rope.beta_slow, 1e-6, 1e6) ||
      !within(rope.attention_factor, 0.0, 1e3)) {
    return error(
        "YaRN betas and attention factor must be positive, and no larger than 1e6 and 1e3");
  }
  if (!within(rope.mscale, 0.0, 1e3) || !within(rope.mscale_all_dim, 0.0, 1e3)) {
    return error("YaRN magnitudes are ", rope.mscale, " and ", rope.mscale_all_dim);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckConfig(const ModelConfig& config, const std::string& file) {
  const Range ranges[] = {{"layer count", config.layers, 1, 1024},
                          {"hidden size", config.hidden, 1, 1 << 17},
                          {"feed-forward size", config.ffn_hidden, 1, 1 << 20},
                          {"query head count", config.q_heads, 1, 1024},
                          {"key/value head count", config.kv_heads, 1, config.q_heads},
                          {"head dimension", config.head_dim, 2, 512},
                          {"vocabulary size", config.vocab, 1, 1 << 24},
                          {"context length", config.context_length, 1, 1 << 26}};
  for (const Range& range : ranges) {
    if (range.value < range.least || range.value > range.most) {
      return DataLoss(file, ": ", range.field, " is ", range.value, "; it must be between ",
                      range.least, " and ", range.most);
    }
  }
  if (config.q_heads % config.kv_heads != 0) {
    return DataLoss(file, ": ", config.q_heads, " query heads cannot be shared by ",
                    config.kv_heads, " key/value heads");
  }
  if (config.head_dim % 2 != 0) {
    return DataLoss(file, ": head dimension is ", config.head_dim, "; it must be even");
  }
  if (!(config.norm_eps > 0.0f) || !(config.norm_eps < 1.0f)) {
    return DataLoss(file, ": normalisation epsilon is ", config.norm_eps);
  }
  return CheckRope(config.rope, config.head_dim, file);
}

absl::Status CheckTensorKnown(const ModelConfig& config, const std::string& name,
                              const std::string& file) {
  if (name.ends_with(".rotary_emb.inv_freq")) return absl::OkStatus();  // derived, not learned
  const bool known = GgufTensorName(name).has_value();
  const bool misplaced_norm = !config.qk_norm && (name.ends_with("self_attn.q_norm.weight") ||
                                                  name.ends_with("self_attn.k_norm.weight"));
  const bool misplaced_bias =
      !config.qkv_bias && name.ends_with("_proj.bias") && !name.ends_with("o_proj.bias");
  if (!known || misplaced_norm || misplaced_bias) {
    return Unimplemented(file, ": tensor ", name, " does not belong to the architecture ",
                         config.architecture, " as supported here");
  }
  const std::optional<LayerName> layer = SplitLayerName(name, kHfLayerPrefix);
  if (layer && layer->layer >= config.layers) {
    return DataLoss(file, ": tensor ", name, " is beyond the model's ", config.layers, " layers");
  }
  return absl::OkStatus();
}

std::string DisplayName(std::string_view name) {
  std::string out;
  text::AppendLossyUtf8(name, /*final=*/true, &out);
  return out;
}

std::optional<std::string> GgufTensorName(std::string_view hugging_face_name) {
  return Translate(hugging_face_name, &NamePair::hugging_face, &NamePair::gguf, kHfLayerPrefix,
                   kGgufLayerPrefix);
}

std::optional<std::string> HuggingFaceTensorName(std::string_view gguf_name) {
  return Translate(gguf_name, &NamePair::gguf, &NamePair::hugging_face, kGgufLayerPrefix,
                   kHfLayerPrefix);
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenModel(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return NotFound(path, ": no such file or directory");
  if (std::filesystem::is_directory(status)) return OpenHfDirectory(path);
  return OpenGguf(path);
}

}  // namespace spotd::model
