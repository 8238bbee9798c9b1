#include "runtime/model/model_config.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <numbers>

#include "kernels/core/status.h"

namespace spotd::model {
namespace {

// Frequencies are computed in float, in the order in which `transformers` computes them, so that
// the angles of positions far out agree with those the checkpoint was trained and is evaluated
// with.

// theta^(2i / rotary_dim)
std::vector<float> Wavelengths(const RopeConfig& rope) {
  std::vector<float> out(rope.rotary_dim / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rotary_dim);
    out[i] = static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
  }
  return out;
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
float Llama3Frequency(const RopeConfig& rope, float inv_freq) {
  const auto context = static_cast<double>(rope.original_context);
  const auto factor = static_cast<float>(rope.factor);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / inv_freq;
  if (wavelength > context / rope.low_freq_factor) return inv_freq / factor;
  if (wavelength < context / rope.high_freq_factor) return inv_freq;
  const float smooth =
      (static_cast<float>(context) / wavelength - static_cast<float>(rope.low_freq_factor)) /
      static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0f - smooth) * inv_freq / factor + smooth * inv_freq;
}

void ApplyLlama3(const RopeConfig& rope, std::vector<float>* inv_freq) {
  for (size_t i = 0; i < inv_freq->size(); ++i) {
    float& f = (*inv_freq)[i];
    f = rope.frequency_factors.empty() ? Llama3Frequency(rope, f) : f / rope.frequency_factors[i];
  }
}

// The dim whose wave turns `rotations` times over the original context (arXiv 2309.00071,
// section 3.2).
double YarnCorrectionDim(const RopeConfig& rope, double rotations) {
  return rope.rotary_dim * std::log(rope.original_context / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

void ApplyYarn(const RopeConfig& rope, const std::vector<float>& wavelengths,
               std::vector<float>* inv_freq) {
  double low = YarnCorrectionDim(rope, rope.beta_fast);
  double high = YarnCorrectionDim(rope, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq->size(); ++i) {
    const float ramp =
        std::clamp(static_cast<float>((static_cast<double>(i) - low) / (high - low)), 0.0f, 1.0f);
    const float interpolated = 1.0f / (static_cast<float>(rope.factor) * wavelengths[i]);
    const float keep = 1.0f - ramp;
    (*inv_freq)[i] = interpolated * (1.0f - keep) + (*inv_freq)[i] * keep;
  }
}

double YarnMscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double YarnMagnitude(const RopeConfig& rope) {
  if (rope.attention_factor != 0.0) return rope.attention_factor;
  if (rope.mscale != 0.0 && rope.mscale_all_dim != 0.0) {
    return YarnMscale(rope.factor, rope.mscale) / YarnMscale(rope.factor, rope.mscale_all_dim);
  }
  return YarnMscale(rope.factor, 1.0);
}

// FNV-1a over the canonical text; two seeds give 128 bits.
uint64_t Fnv1a(const std::string& text, uint64_t hash) {
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

// The scaling rule in the terms that every file format states: GGUF has llama3 only as factors per
// dim.
std::string CanonicalRope(const RopeConfig& rope) {
  char text[256];
  std::snprintf(text, sizeof text, "theta=%.7g rotary=%d scaling=%d", rope.theta, rope.rotary_dim,
                static_cast<int>(rope.scaling));
  std::string out = text;
  if (rope.scaling != RopeScaling::kNone) {
    std::snprintf(text, sizeof text, " factor=%.6g", rope.factor);
    out += text;
  }
  if (rope.scaling == RopeScaling::kYarn) {
    std::snprintf(text, sizeof text, " original=%d beta=%.6g,%.6g magnitude=%.6g",
                  rope.original_context, rope.beta_fast, rope.beta_slow, YarnMagnitude(rope));
    out += text;
  }
  return out;
}

}  // namespace

std::string ModelConfig::Fingerprint() const {
  char eps[32];
  std::snprintf(eps, sizeof eps, "%.6g", static_cast<double>(norm_eps));
  const std::string text =
      Concat("v1 ", architecture, " layers=", layers, " hidden=", hidden, " ffn=", ffn_hidden,
             " q=", q_heads, " kv=", kv_heads, " dim=", head_dim, " vocab=", vocab, " eps=", eps,
             " bias=", qkv_bias, " qk_norm=", qk_norm, " ", CanonicalRope(rope));
  char hex[40];
  std::snprintf(hex, sizeof hex, "%016" PRIx64 "%016" PRIx64, Fnv1a(text, 0xcbf29ce484222325u),
                Fnv1a(text, 0x9ae16a3b2f90404fu));
  return hex;
}

RopeFrequencies ComputeRope(const RopeConfig& rope) {
  const std::vector<float> wavelengths = Wavelengths(rope);
  RopeFrequencies out;
  out.inv_freq.resize(wavelengths.size());
  for (size_t i = 0; i < wavelengths.size(); ++i) out.inv_freq[i] = 1.0f / wavelengths[i];
  switch (rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      for (float& f : out.inv_freq) f /= static_cast<float>(rope.factor);
      break;
    case RopeScaling::kLlama3:
      ApplyLlama3(rope, &out.inv_freq);
      break;
    case RopeScaling::kYarn:
      ApplyYarn(rope, wavelengths, &out.inv_freq);
      out.magnitude = static_cast<float>(YarnMagnitude(rope));
      break;
  }
  return out;
}

}  // namespace spotd::model
