// A random transformer small enough for tests, made in memory: hidden 64, 2 layers, one token for
// each byte and a few control tokens, with a ChatML template. Text in, nonsense out, everything
// else as in a real server.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "kernels/ref/ref_backend.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model_source.h"
#include "runtime/model/selector.h"
#include "runtime/model/transformer.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"

namespace spotd::testing {

// Token ids: bytes are 0..255.
inline constexpr int32_t kImStart = 256;
inline constexpr int32_t kImEnd = 257;
inline constexpr int32_t kEndOfText = 258;
inline constexpr int32_t kTinyVocab = 259;

inline model::ModelConfig TinyConfig() {
  model::ModelConfig config;
  config.name = "tiny";
  config.architecture = "llama";
  config.layers = 2;
  config.hidden = 64;
  config.ffn_hidden = 128;
  config.q_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.vocab = kTinyVocab;
  config.context_length = 4096;
  config.rope.rotary_dim = 16;
  config.eos_tokens = {kImEnd};
  return config;
}

inline text::TokenizerData TinyTokenizerData() {
  text::TokenizerData data;
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    text::AppendUtf8(text::AlphabetCharacter(static_cast<uint8_t>(byte)), &character);
    data.vocab.push_back(character);
  }
  for (const char* text : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) {
    text::AddedToken token;
    token.id = static_cast<int32_t>(data.vocab.size());
    token.content = text;
    token.special = true;
    data.vocab.emplace_back(text);
    data.added_tokens.push_back(token);
  }
  data.pre_tokenizer.gpt2_pattern = true;
  data.eos = kImEnd;
  return data;
}

// Weights are drawn when they are asked for, from a seed of their name, so that order does not
// matter.
class TinySource : public model::ModelSource {
 public:
  explicit TinySource(uint64_t seed, const model::ModelConfig& config = TinyConfig())
      : seed_(seed), config_(config), tokenizer_data_(TinyTokenizerData()) {}

  const model::ModelConfig& config() const override { return config_; }
  bool interleaved_qk_rows() const override { return false; }
  const text::TokenizerData& tokenizer_data() const override { return tokenizer_data_; }
  const std::string& path() const override { return path_; }
  bool HasTensor(const std::string& name) const override { return !Shape(name).empty(); }

  absl::StatusOr<model::TensorView> Tensor(const std::string& name) const override {
    const std::vector<int64_t> shape = Shape(name);
    if (shape.empty()) return NotFound(path_, ": no tensor ", name);
    std::vector<float>& values = tensors_[name];
    if (values.empty()) values = Draw(name, shape);
    return model::TensorView{DType::kF32, shape, values.data(), values.size() * sizeof(float)};
  }

 private:
  static bool EndsWith(const std::string& name, const char* end) { return name.ends_with(end); }

  std::vector<int64_t> Shape(const std::string& name) const {
    const int64_t hidden = config_.hidden;
    const int64_t q = int64_t{config_.q_heads} * config_.head_dim;
    const int64_t kv = int64_t{config_.kv_heads} * config_.head_dim;
    if (EndsWith(name, "embed_tokens.weight") || name == "lm_head.weight") {
      return {config_.vocab, hidden};
    }
    if (EndsWith(name, "norm.weight")) return {hidden};
    if (EndsWith(name, "q_proj.weight")) return {q, hidden};
    if (EndsWith(name, "k_proj.weight") || EndsWith(name, "v_proj.weight")) return {kv, hidden};
    if (EndsWith(name, "o_proj.weight")) return {hidden, q};
    if (EndsWith(name, "gate_proj.weight") || EndsWith(name, "up_proj.weight")) {
      return {config_.ffn_hidden, hidden};
    }
    if (EndsWith(name, "down_proj.weight")) return {hidden, config_.ffn_hidden};
    return {};
  }

  std::vector<float> Draw(const std::string& name, const std::vector<int64_t>& shape) const {
    const bool norm = shape.size() == 1;
    size_t count = 1;
    for (const int64_t dim : shape) count *= static_cast<size_t>(dim);
    // Queries and keys are large enough that attention is peaked and the choice of blocks matters.
    const float gain = EndsWith(name, "q_proj.weight") || EndsWith(name, "k_proj.weight") ? 3 : 1;
    const float spread = norm ? 0.1f : gain / std::sqrt(static_cast<float>(shape.back()));
    std::seed_seq seeds(name.begin(), name.end());
    std::vector<uint32_t> words(2);
    seeds.generate(words.begin(), words.end());
    std::mt19937_64 random(seed_ ^ (uint64_t{words[0]} << 32 | words[1]));
    std::normal_distribution<float> normal(norm ? 1.0f : 0.0f, spread);
    std::vector<float> values(count);
    for (float& value : values) value = normal(random);
    return values;
  }

  uint64_t seed_;
  model::ModelConfig config_;
  text::TokenizerData tokenizer_data_;
  std::string path_ = "tiny";
  mutable std::map<std::string, std::vector<float>> tensors_;
};

// ChatML as a template engine renders it.
class TinyChatTemplate : public text::ChatTemplate {
 public:
  absl::StatusOr<std::string> Render(std::span<const text::ChatMessage> messages,
                                     const text::ChatTemplateOptions& options) const override {
    std::string out;
    for (const text::ChatMessage& message : messages) {
      if (message.role == "refused") return InvalidArgument("unknown role: refused");
      out += "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n";
    }
    if (options.add_generation_prompt) out += "<|im_start|>assistant\n";
    return out;
  }
};

// What tiny engines compute on where a test does not say: the reference backend. tests/gpu runs
// tests of the engine with the GPU here.
inline std::function<std::unique_ptr<kernels::Backend>()>& TinyBackend() {
  static std::function<std::unique_ptr<kernels::Backend>()> make = kernels::CreateRefBackend;
  return make;
}

struct TinyEngineOptions {
  engine::EngineOptions engine;
  model::Limits limits;
  model::ModelConfig model = TinyConfig();
  uint64_t seed = 1;
  bool selector = true;
  bool chat_template = true;
  std::unique_ptr<kernels::Backend> backend;  // null: one of TinyBackend()

  TinyEngineOptions() {
    engine.kv_memory_bytes = 16u << 20;
    limits.max_batch = 16;
    limits.max_prefill_chunk = 32;
    limits.max_context = 2048;
  }
};

inline absl::StatusOr<std::unique_ptr<engine::Engine>> CreateTinyEngine(TinyEngineOptions options) {
  TinySource source(options.seed, options.model);
  auto backend = std::make_unique<engine::AttentionAudit>(
      options.backend != nullptr ? std::move(options.backend) : TinyBackend()());
  options.engine.audit.probe = backend.get();
  std::unique_ptr<model::SelectorSource> selector;
  if (options.selector) {
    model::SelectorConfig config;
    config.heads = 2;
    config.dim = 32;
    selector = model::RandomSelector(source.config(), config, options.seed);
  }
  SPOTD_ASSIGN_OR_RETURN(
      auto transformer,
      model::Transformer::Load(backend.get(), source, std::move(selector), options.limits));
  SPOTD_ASSIGN_OR_RETURN(auto tokenizer, text::Tokenizer::Create(source.tokenizer_data()));
  std::unique_ptr<text::ChatTemplate> chat_template;
  if (options.chat_template) chat_template = std::make_unique<TinyChatTemplate>();
  return engine::Engine::Create(options.engine, "tiny", std::move(backend), std::move(transformer),
                                std::move(tokenizer), std::move(chat_template));
}

// As above; a failure ends the test.
inline std::unique_ptr<engine::Engine> MakeTinyEngine(
    TinyEngineOptions options = TinyEngineOptions()) {
  auto made = CreateTinyEngine(std::move(options));
  SPOTD_CHECK(made.ok());
  return *std::move(made);
}

}  // namespace spotd::testing
