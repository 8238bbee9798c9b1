// The geometry of a pretrained decoder-only transformer, read from a GGUF file or a Hugging Face
// directory.
//
// Covers the Llama family, Qwen2/Qwen2.5 (QKV bias) and Qwen3 dense (QK-norm): pre-norm, rotary
// positions, grouped-query attention, SwiGLU feed-forward. Immutable after loading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spotd::model {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeConfig {
  double theta = 10000.0;
  int32_t rotary_dim = 0;  // <= head_dim
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  int32_t original_context = 0;  // llama3 and yarn
  double low_freq_factor = 1.0;  // llama3
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;  // yarn
  double beta_slow = 1.0;
  double attention_factor = 0.0;  // yarn; 0 = derived from factor
  double mscale = 0.0;  // yarn; this and the next, when not 0, derive the factor differently
  double mscale_all_dim = 0.0;
  bool truncate = true;  // yarn: round the corrected range to whole dims
  // [rotary_dim / 2] divisors of the unscaled frequencies, in place of the llama3 parameters above:
  // the form in which GGUF states them. Empty otherwise.
  std::vector<float> frequency_factors;
};

struct ModelConfig {
  std::string name;          // shown to clients, e.g. "SmolLM2-135M-Instruct"
  std::string architecture;  // "llama", "qwen2" or "qwen3"
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t ffn_hidden = 0;
  int32_t q_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab = 0;
  int32_t context_length = 0;  // positions the checkpoint was trained for
  float norm_eps = 1e-5f;
  RopeConfig rope;
  bool qkv_bias = false;
  bool qk_norm = false;
  bool tied_embeddings = false;
  std::vector<int32_t> eos_tokens;  // generation stops at any of these
  // Hash of everything above that changes the meaning of KV or selector weights; hex, stable across
  // file formats of the same checkpoint geometry.
  std::string Fingerprint() const;
};

// inv_freq [rotary_dim / 2] and the magnitude by which cos and sin are scaled, with the scaling
// rule applied.
struct RopeFrequencies {
  std::vector<float> inv_freq;
  float magnitude = 1.0f;
};
RopeFrequencies ComputeRope(const RopeConfig& rope);

}  // namespace spotd::model
