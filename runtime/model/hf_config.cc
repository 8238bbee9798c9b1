#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/json.h"
#include "runtime/model/checkpoint.h"

namespace spotd::model {
namespace {

using nlohmann::json;

constexpr double kMaxContext = 1 << 26;  // keeps a product of corrupt numbers convertible

// Reads members of one JSON object; the first failure is kept and later reads give defaults.
class Reader {
 public:
  Reader(const json& object, const std::string& what) : object_(object), what_(what) {}

  bool Has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  int32_t Int(const char* key) {
    if (!Has(key)) Fail(NotFound(what_, ": \"", key, "\" is missing"));
    return IntOr(key, 0);
  }
  int32_t IntOr(const char* key, int32_t absent) {
    const int64_t value = Take(formats::JsonInt(object_, key, absent, what_));
    const auto narrow = static_cast<int32_t>(value);
    if (narrow != value) Fail(DataLoss(what_, ": \"", key, "\" is ", value, ", out of range"));
    return narrow;
  }
  double DoubleOr(const char* key, double absent) {
    return Take(formats::JsonDouble(object_, key, absent, what_));
  }
  bool BoolOr(const char* key, bool absent) {
    return Take(formats::JsonBool(object_, key, absent, what_));
  }
  std::string StringOr(const char* key, const std::string& absent) {
    return Take(formats::JsonString(object_, key, absent, what_));
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  template <typename T>
  T Take(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    Fail(value.status());
    return T();
  }

  const json& object_;
  const std::string& what_;
  absl::Status status_;
};

// Where `model_type` makes no promise of its own, arithmetic the forward pass does not do is
// refused.
absl::Status CheckSupported(const json& config, Reader& reader, const std::string& what) {
  const std::string act = reader.StringOr("hidden_act", "silu");
  if (act != "silu" && act != "swish") {
    return Unimplemented(what, ": \"hidden_act\" is \"", act, "\"; silu is supported");
  }
  if (reader.BoolOr("mlp_bias", false)) {
    return Unimplemented(what, ": \"mlp_bias\" is not supported");
  }
  if (config.contains("quantization_config")) {
    return Unimplemented(what,
                         ": \"quantization_config\": quantised checkpoints are read from "
                         "GGUF files only");
  }
  const bool window = reader.BoolOr("use_sliding_window", false) &&
                      reader.IntOr("max_window_layers", 0) < reader.IntOr("num_hidden_layers", 0);
  bool other_layers = false;
  if (const auto types = config.find("layer_types"); types != config.end() && types->is_array()) {
    other_layers = std::any_of(types->begin(), types->end(),
                               [](const json& type) { return type != "full_attention"; });
  }
  if (window || other_layers) {
    return Unimplemented(what, ": sliding-window attention is in use, which is not supported");
  }
  return absl::OkStatus();
}

absl::Status ReadScalingRule(Reader& reader, const std::string& type, const ModelConfig& config,
                             const std::string& what, RopeConfig* rope) {
  if (type == "default") return absl::OkStatus();
  rope->factor = reader.DoubleOr("factor", 0.0);
  rope->original_context = reader.IntOr("original_max_position_embeddings", config.context_length);
  if (type == "linear") {
    rope->scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    rope->scaling = RopeScaling::kLlama3;
    rope->low_freq_factor = reader.DoubleOr("low_freq_factor", 1.0);
    rope->high_freq_factor = reader.DoubleOr("high_freq_factor", 4.0);
  } else if (type == "yarn") {
    rope->scaling = RopeScaling::kYarn;
    if (!reader.Has("factor") && rope->original_context > 0) {
      rope->factor = static_cast<double>(config.context_length) / rope->original_context;
    }
    rope->beta_fast = reader.DoubleOr("beta_fast", 32.0);
    rope->beta_slow = reader.DoubleOr("beta_slow", 1.0);
    rope->attention_factor = reader.DoubleOr("attention_factor", 0.0);
    rope->mscale = reader.DoubleOr("mscale", 0.0);
    rope->mscale_all_dim = reader.DoubleOr("mscale_all_dim", 0.0);
    rope->truncate = reader.BoolOr("truncate", true);
  } else {
    return Unimplemented(what, ": rotary scaling \"", type,
                         "\" is not supported (linear, llama3 and yarn are)");
  }
  return absl::OkStatus();
}

// "rope_parameters" (newer files, theta inside) or "rope_scaling" with theta beside it.
absl::Status ReadRope(const json& object, const std::string& what, Reader& top,
                      ModelConfig* config) {
  const json* scaling = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto it = object.find(key);
    if (scaling == nullptr && it != object.end() && !it->is_null()) scaling = &*it;
  }
  const json none = json::object();
  if (scaling == nullptr) scaling = &none;
  if (!scaling->is_object()) return DataLoss(what, ": rotary scaling is not a JSON object");
  Reader reader(*scaling, what);
  RopeConfig& rope = config->rope;
  rope.theta = reader.DoubleOr("rope_theta", top.DoubleOr("rope_theta", 10000.0));
  const double part =
      reader.DoubleOr("partial_rotary_factor", top.DoubleOr("partial_rotary_factor", 1.0));
  if (part != 1.0) {
    return Unimplemented(what, ": rotary embedding over part of a head is not supported");
  }
  rope.rotary_dim = config->head_dim;
  const std::string type = reader.StringOr("rope_type", reader.StringOr("type", "default"));
  SPOTD_RETURN_IF_ERROR(ReadScalingRule(reader, type, *config, what, &rope));
  SPOTD_RETURN_IF_ERROR(reader.status());
  if (rope.scaling == RopeScaling::kYarn) {
    const double extended = std::clamp(rope.factor * rope.original_context, 0.0, kMaxContext);
    config->context_length = std::max(config->context_length, static_cast<int32_t>(extended));
  }
  return absl::OkStatus();
}

// "eos_token_id": one id, a list of ids, or nothing.
void AddEndTokens(const json& object, int32_t vocab, std::vector<int32_t>* out) {
  const auto it = object.find("eos_token_id");
  if (it == object.end()) return;
  const json list = it->is_array() ? *it : json::array({*it});
  for (const json& item : list) {
    const std::optional<int64_t> id = formats::JsonCount(item);
    if (!id || *id >= vocab || std::find(out->begin(), out->end(), *id) != out->end()) continue;
    out->push_back(static_cast<int32_t>(*id));
  }
}

absl::Status ReadGeometry(Reader& reader, ModelConfig* config) {
  config->layers = reader.Int("num_hidden_layers");
  config->hidden = reader.Int("hidden_size");
  config->ffn_hidden = reader.Int("intermediate_size");
  config->q_heads = reader.Int("num_attention_heads");
  config->kv_heads = reader.IntOr("num_key_value_heads", config->q_heads);
  config->vocab = reader.Int("vocab_size");
  config->context_length = reader.Int("max_position_embeddings");
  config->norm_eps = static_cast<float>(reader.DoubleOr("rms_norm_eps", 1e-6));
  const int32_t equal_share = config->q_heads > 0 ? config->hidden / config->q_heads : 0;
  const bool qwen3 = config->architecture == "qwen3";
  config->head_dim = reader.IntOr("head_dim", qwen3 ? 128 : equal_share);
  config->qk_norm = qwen3;
  config->qkv_bias = config->architecture == "qwen2" || reader.BoolOr("attention_bias", false);
  config->tied_embeddings = reader.BoolOr("tie_word_embeddings", false);
  return reader.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadHfConfig(std::string_view config_json,
                                         std::string_view generation_config_json,
                                         const std::string& directory) {
  const std::string what = directory + "/config.json";
  SPOTD_ASSIGN_OR_RETURN(const json object, formats::ParseJsonObject(config_json, what));
  Reader reader(object, what);
  ModelConfig config;
  config.architecture = reader.StringOr("model_type", "");
  SPOTD_RETURN_IF_ERROR(reader.status());
  if (config.architecture != "llama" && config.architecture != "qwen2" &&
      config.architecture != "qwen3") {
    return Unimplemented(what, ": \"model_type\" is \"", config.architecture,
                         "\"; llama, qwen2 and qwen3 are supported");
  }
  SPOTD_RETURN_IF_ERROR(CheckSupported(object, reader, what));
  SPOTD_RETURN_IF_ERROR(ReadGeometry(reader, &config));
  SPOTD_RETURN_IF_ERROR(ReadRope(object, what, reader, &config));
  SPOTD_RETURN_IF_ERROR(reader.status());
  SPOTD_RETURN_IF_ERROR(CheckConfig(config, what));
  config.name = DisplayName(std::filesystem::weakly_canonical(directory).filename().string());
  if (!generation_config_json.empty()) {
    const std::string generation = directory + "/generation_config.json";
    SPOTD_ASSIGN_OR_RETURN(const json defaults,
                           formats::ParseJsonObject(generation_config_json, generation));
    AddEndTokens(defaults, config.vocab, &config.eos_tokens);
  }
  AddEndTokens(object, config.vocab, &config.eos_tokens);
  return config;
}

}  // namespace spotd::model
