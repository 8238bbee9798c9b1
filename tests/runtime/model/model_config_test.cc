#include "runtime/model/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "runtime/model/model_source.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.name = "small";
  config.architecture = "llama";
  config.layers = 2;
  config.hidden = 64;
  config.ffn_hidden = 128;
  config.q_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.vocab = 300;
  config.context_length = 128;
  config.rope.rotary_dim = 16;
  return config;
}

// The recorded frequencies are those of `transformers` for the same configuration.
class RopeGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(RopeGoldenTest, FrequenciesAreThoseOfTransformers) {
  const auto source = OpenModel(ModelPath(GetParam()));
  ASSERT_TRUE(source.ok()) << source.status();
  const std::string family = std::string(GetParam()).substr(0, std::string(GetParam()).find('.'));
  const Golden golden = ReadGolden(ModelPath(family + "/golden.safetensors"));
  const RopeFrequencies rope = ComputeRope((*source)->config().rope);
  ASSERT_EQ(rope.inv_freq.size(), golden.inv_freq.size());
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    // Two units in the last place: torch's power function is not correctly rounded.
    EXPECT_NEAR(rope.inv_freq[i] / golden.inv_freq[i], 1.0f, 2.5e-7f) << i;
  }
  EXPECT_FLOAT_EQ(rope.magnitude, golden.magnitude);
}

INSTANTIATE_TEST_SUITE_P(Models, RopeGoldenTest,
                         ::testing::Values("llama3", "llama_linear", "llama_yarn", "qwen2", "qwen3",
                                           "llama3.F32.gguf", "llama_linear.Q8_0.gguf",
                                           "llama_yarn.F16.gguf", "qwen2.F16.gguf",
                                           "qwen3.BF16.gguf"));

TEST(RopeTest, YarnMagnitude) {
  RopeConfig rope;
  rope.rotary_dim = 16;
  rope.scaling = RopeScaling::kYarn;
  rope.original_context = 32;
  rope.factor = 4.0;
  const double derived = 0.1 * std::log(4.0) + 1.0;
  EXPECT_NEAR(ComputeRope(rope).magnitude, derived, 1e-6);
  rope.mscale = 0.7;
  EXPECT_NEAR(ComputeRope(rope).magnitude, derived, 1e-6);  // needs both
  rope.mscale_all_dim = 0.5;
  EXPECT_NEAR(ComputeRope(rope).magnitude,
              (0.07 * std::log(4.0) + 1.0) / (0.05 * std::log(4.0) + 1.0), 1e-6);
  rope.attention_factor = 1.25;
  EXPECT_EQ(ComputeRope(rope).magnitude, 1.25f);
  rope.attention_factor = 0;
  rope.factor = 0.5;
  EXPECT_EQ(ComputeRope(rope).magnitude, 1.0f);
}

TEST(FingerprintTest, IsTheSameInBothFormats) {
  for (const char* name : {"llama3", "llama_yarn", "qwen2", "qwen3", "llama_linear"}) {
    const std::string suffix = name == std::string("llama3")         ? ".F32.gguf"
                               : name == std::string("qwen3")        ? ".BF16.gguf"
                               : name == std::string("llama_linear") ? ".Q8_0.gguf"
                                                                     : ".F16.gguf";
    const auto directory = OpenModel(ModelPath(name));
    const auto gguf = OpenModel(ModelPath(name + suffix));
    ASSERT_TRUE(directory.ok() && gguf.ok()) << name;
    EXPECT_EQ((*directory)->config().Fingerprint(), (*gguf)->config().Fingerprint()) << name;
    EXPECT_EQ((*directory)->config().Fingerprint().size(), 32u);
  }
}

TEST(FingerprintTest, DiffersWithWhateverChangesKv) {
  std::set<std::string> prints = {SmallConfig().Fingerprint()};
  size_t changes = 1;
  const auto changed = [&](auto change) {
    ModelConfig config = SmallConfig();
    change(&config);
    prints.insert(config.Fingerprint());
    EXPECT_EQ(prints.size(), ++changes);
  };
  changed([](ModelConfig* c) { c->architecture = "qwen2"; });
  changed([](ModelConfig* c) { c->layers = 3; });
  changed([](ModelConfig* c) { c->hidden = 65; });
  changed([](ModelConfig* c) { c->ffn_hidden = 129; });
  changed([](ModelConfig* c) { c->q_heads = 8; });
  changed([](ModelConfig* c) { c->kv_heads = 1; });
  changed([](ModelConfig* c) { c->head_dim = 32; });
  changed([](ModelConfig* c) { c->vocab = 301; });
  changed([](ModelConfig* c) { c->norm_eps = 1e-6f; });
  changed([](ModelConfig* c) { c->qkv_bias = true; });
  changed([](ModelConfig* c) { c->qk_norm = true; });
  changed([](ModelConfig* c) { c->rope.theta = 1e6; });
  changed([](ModelConfig* c) { c->rope.rotary_dim = 8; });
  changed([](ModelConfig* c) {
    c->rope.scaling = RopeScaling::kLinear;
    c->rope.factor = 2;
  });
  changed([](ModelConfig* c) {
    c->rope.scaling = RopeScaling::kYarn;
    c->rope.factor = 2;
    c->rope.original_context = 64;
  });
}

TEST(FingerprintTest, IgnoresNamesAndLimits) {
  ModelConfig config = SmallConfig();
  config.name = "other";
  config.context_length = 4096;
  config.eos_tokens = {1, 2};
  EXPECT_EQ(config.Fingerprint(), SmallConfig().Fingerprint());
}

}  // namespace
}  // namespace spotd::model
