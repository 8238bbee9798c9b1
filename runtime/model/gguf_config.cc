#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>

#include "kernels/core/dequantize.h"
#include "kernels/core/status.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/checkpoint.h"

namespace spotd::model {
namespace {

constexpr std::array<std::string_view, 3> kArchitectures = {"llama", "qwen2", "qwen3"};
constexpr const char* kFactorsTensor = "rope_freqs.weight";
constexpr double kMaxContext = 1 << 26;  // keeps a product of corrupt numbers convertible

// Metadata whose presence with a non-zero value means arithmetic that the forward pass does not do.
struct Refusal {
  std::string_view key;
  std::string_view meaning;
};
constexpr std::array<Refusal, 8> kRefused = {{
    {"expert_count", "mixture of experts"},
    {"attention.sliding_window", "sliding-window attention"},
    {"attention.scale", "a scale of its own on attention scores"},
    {"attention.clamp_kqv", "clamped projections"},
    {"logit_scale", "scaled logits"},
    {"residual_scale", "scaled residuals"},
    {"embedding_scale", "scaled embeddings"},
    {"rope.scaling.yarn_log_multiplier", "a YaRN log multiplier"},
}};

// Reads "{architecture}.{name}" keys; the first failure is kept and later reads give defaults.
class Reader {
 public:
  Reader(const formats::GgufFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  std::string Key(std::string_view name) const { return Concat(architecture_, ".", name); }
  bool Has(std::string_view name) const { return file_.Has(Key(name)); }

  int32_t Int(std::string_view name) { return Narrow(name, Take(file_.Int(Key(name)))); }
  int32_t IntOr(std::string_view name, int32_t absent) {
    return Narrow(name, Take(file_.IntOr(Key(name), absent)));
  }
  double Float(std::string_view name) { return Take(file_.Float(Key(name))); }
  double FloatOr(std::string_view name, double absent) {
    return Take(file_.FloatOr(Key(name), absent));
  }
  std::string StringOr(std::string_view name, std::string_view absent) {
    return Take(file_.StringOr(Key(name), absent));
  }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Take(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    if (status_.ok()) status_ = value.status();
    return T();
  }
  int32_t Narrow(std::string_view name, int64_t value) {
    const auto narrow = static_cast<int32_t>(value);
    if (narrow != value && status_.ok()) {
      status_ = DataLoss(file_.path(), ": ", Key(name), " is ", value, ", which is out of range");
    }
    return narrow;
  }

  const formats::GgufFile& file_;
  std::string architecture_;
  absl::Status status_;
};

// An adapter, a vocabulary or one part of a split model is a GGUF file too.
absl::Status CheckWholeModel(const formats::GgufFile& file) {
  SPOTD_ASSIGN_OR_RETURN(const std::string type, file.StringOr("general.type", "model"));
  if (type != "model") {
    return Unimplemented(file.path(), ": general.type is \"", type, "\", not \"model\"");
  }
  SPOTD_ASSIGN_OR_RETURN(const int64_t parts, file.IntOr("split.count", 1));
  if (parts > 1) {
    return Unimplemented(file.path(), ": split.count is ", parts,
                         ": merge the parts of a split model into one file first");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadArchitecture(const formats::GgufFile& file) {
  SPOTD_ASSIGN_OR_RETURN(const std::string name, file.String("general.architecture"));
  if (std::find(kArchitectures.begin(), kArchitectures.end(), name) != kArchitectures.end()) {
    return name;
  }
  return Unimplemented(file.path(), ": general.architecture is \"", name,
                       "\"; llama, qwen2 and qwen3 are supported");
}

absl::Status CheckRefused(const formats::GgufFile& file, const Reader& reader) {
  for (const Refusal& refusal : kRefused) {
    SPOTD_ASSIGN_OR_RETURN(const double value, file.FloatOr(reader.Key(refusal.key), 0.0));
    if (value != 0.0) {
      return Unimplemented(file.path(), ": ", reader.Key(refusal.key), " is ", value, ": ",
                           refusal.meaning, " is not supported");
    }
  }
  return absl::OkStatus();
}

// Llama 3.1's scaling as llama.cpp's converter writes it: a divisor for each pair of rotary dims.
absl::Status ReadFrequencyFactors(const formats::GgufFile& file, RopeConfig* rope) {
  const auto it = file.tensors().find(kFactorsTensor);
  if (it == file.tensors().end()) return absl::OkStatus();
  const formats::GgufTensor& tensor = it->second;
  const auto error = [&](const auto&... reason) {
    return Unimplemented(file.path(), ": tensor ", kFactorsTensor, " ", reason...);
  };
  if (rope->scaling != RopeScaling::kNone) return error("comes on top of another scaling rule");
  const auto count = static_cast<size_t>(rope->rotary_dim / 2);
  if (tensor.type != DType::kF32 || tensor.shape.size() != 1 || tensor.bytes != count * 4) {
    return error("is not a list of ", count, " F32 values");
  }
  rope->frequency_factors.resize(count);
  std::memcpy(rope->frequency_factors.data(), tensor.data, tensor.bytes);
  rope->factor = 1.0;
  for (const float factor : rope->frequency_factors) {
    if (!(factor > 0.0f && factor < 1e6f)) return error("holds ", factor);
    rope->factor = std::max(rope->factor, static_cast<double>(factor));
  }
  rope->scaling = RopeScaling::kLlama3;
  return absl::OkStatus();
}

absl::Status ReadScaling(const formats::GgufFile& file, Reader& reader, RopeConfig* rope) {
  // As llama.cpp reads them: a factor alone is linear scaling, under its older name too, and 0 says
  // that there is none.
  const std::string type = reader.StringOr("rope.scaling.type", "linear");
  rope->factor = reader.FloatOr("rope.scaling.factor", reader.FloatOr("rope.scale_linear", 1.0));
  if (rope->factor == 0.0) rope->factor = 1.0;
  if (type == "yarn") {
    rope->scaling = RopeScaling::kYarn;
    rope->original_context =
        reader.IntOr("rope.scaling.original_context_length", reader.Int("context_length"));
    rope->beta_fast = reader.FloatOr("rope.scaling.yarn_beta_fast", 32.0);
    rope->beta_slow = reader.FloatOr("rope.scaling.yarn_beta_slow", 1.0);
    // llama.cpp multiplies the derived magnitude by attn_factor; 1 leaves the rule of the paper.
    const double extra = reader.FloatOr("rope.scaling.attn_factor", 1.0);
    if (extra != 1.0) {
      return Unimplemented(file.path(), ": ", reader.Key("rope.scaling.attn_factor"), " is ", extra,
                           "; only 1 is supported");
    }
  } else if (type == "linear") {
    rope->scaling = rope->factor == 1.0 ? RopeScaling::kNone : RopeScaling::kLinear;
  } else if (type == "none") {
    rope->factor = 1.0;
  } else {
    return Unimplemented(file.path(), ": ", reader.Key("rope.scaling.type"), " is \"", type,
                         "\"; none, linear and yarn are supported");
  }
  return absl::OkStatus();
}

// Generation also stops at the end-of-turn tokens that a chat template uses beside the end of text.
std::vector<int32_t> ReadEndTokens(const formats::GgufFile& file, int32_t vocab) {
  constexpr std::array<std::string_view, 6> kEndTexts = {
      "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"};
  std::vector<int32_t> out;
  const auto add = [&](int64_t id) {
    if (id >= 0 && id < vocab && std::find(out.begin(), out.end(), id) == out.end()) {
      out.push_back(static_cast<int32_t>(id));
    }
  };
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = file.Int(key); id.ok()) add(*id);
  }
  const auto tokens = file.Strings("tokenizer.ggml.tokens");
  if (!tokens.ok()) return out;
  for (size_t id = 0; id < tokens->size(); ++id) {
    if (std::find(kEndTexts.begin(), kEndTexts.end(), (*tokens)[id]) != kEndTexts.end()) {
      add(static_cast<int64_t>(id));
    }
  }
  return out;
}

// "SmolLM2-135M-Instruct.Q4_1.gguf" -> "SmolLM2-135M-Instruct": people know a model by its file's
// name better than by general.name, which converters derive from training runs.
std::string NameFromFile(const std::string& path) {
  std::string name = DisplayName(std::filesystem::path(path).stem().string());
  const size_t dot = name.find_last_of(".-");
  if (dot == std::string::npos || dot == 0) return name;
  const std::string suffix = name.substr(dot + 1);
  const bool quantised = suffix.size() > 1 && (suffix[0] == 'Q' || suffix[0] == 'q') &&
                         suffix[1] >= '0' && suffix[1] <= '9';
  const bool plain = suffix == "F16" || suffix == "f16" || suffix == "BF16" || suffix == "bf16" ||
                     suffix == "F32" || suffix == "f32";
  return quantised || plain ? name.substr(0, dot) : name;
}

}  // namespace

absl::StatusOr<ModelConfig> ReadGgufConfig(const formats::GgufFile& file) {
  SPOTD_RETURN_IF_ERROR(CheckWholeModel(file));
  ModelConfig config;
  SPOTD_ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(file));
  Reader reader(file, config.architecture);
  SPOTD_RETURN_IF_ERROR(CheckRefused(file, reader));
  config.name = NameFromFile(file.path());
  config.layers = reader.Int("block_count");
  config.hidden = reader.Int("embedding_length");
  config.ffn_hidden = reader.Int("feed_forward_length");
  config.q_heads = reader.Int("attention.head_count");
  config.kv_heads = reader.IntOr("attention.head_count_kv", config.q_heads);
  config.context_length = reader.Int("context_length");
  config.norm_eps = static_cast<float>(reader.Float("attention.layer_norm_rms_epsilon"));
  const int32_t equal_share = config.q_heads > 0 ? config.hidden / config.q_heads : 0;
  config.head_dim = reader.IntOr("attention.key_length", equal_share);
  const int32_t value_dim = reader.IntOr("attention.value_length", config.head_dim);
  config.rope.theta = reader.FloatOr("rope.freq_base", 10000.0);
  config.rope.rotary_dim = reader.IntOr("rope.dimension_count", config.head_dim);
  SPOTD_RETURN_IF_ERROR(ReadScaling(file, reader, &config.rope));
  SPOTD_RETURN_IF_ERROR(reader.status());
  if (value_dim != config.head_dim) {
    return Unimplemented(file.path(), ": keys of ", config.head_dim, " and values of ", value_dim,
                         " dims: they must be of one size");
  }
  config.qk_norm = config.architecture == "qwen3";
  config.qkv_bias = file.tensors().count("blk.0.attn_q.bias") != 0;
  config.tied_embeddings = file.tensors().count("output.weight") == 0;
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end()) {
    return NotFound(file.path(), ": tensor token_embd.weight is missing");
  }
  config.vocab = static_cast<int32_t>(
      std::min<int64_t>(embedding->second.shape.front(), std::numeric_limits<int32_t>::max()));
  // Checked before sizes derived from it are used.
  SPOTD_RETURN_IF_ERROR(CheckConfig(config, file.path()));
  SPOTD_RETURN_IF_ERROR(ReadFrequencyFactors(file, &config.rope));
  if (config.rope.scaling == RopeScaling::kYarn) {
    const double extended =
        std::clamp(config.rope.factor * config.rope.original_context, 0.0, kMaxContext);
    config.context_length = std::max(config.context_length, static_cast<int32_t>(extended));
  }
  config.eos_tokens = ReadEndTokens(file, config.vocab);
  return config;
}

}  // namespace spotd::model
