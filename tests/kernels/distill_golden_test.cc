// The distillation loss and every gradient against PyTorch's autograd
// (tests/data/distill/make_distill_goldens.py).
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/core/float16.h"
#include "kernels/cpu/distill.h"
#include "nlohmann/json.hpp"

namespace spotd::kernels {
namespace {

constexpr int32_t kBlockTokens = 16;

struct Golden {
  nlohmann::json json;
  std::vector<float> Floats(const char* name) const {
    return json.at(name).get<std::vector<float>>();
  }
  std::vector<int32_t> Ints(const char* name) const {
    return json.at(name).get<std::vector<int32_t>>();
  }
  int32_t Int(const char* name) const { return json.at(name).get<int32_t>(); }
  float Float(const char* name) const { return json.at(name).get<float>(); }
};

// keys [rows, kv_heads, head_dim] as blocks 0, 1, ... of one layer.
std::vector<Bf16> PackKeys(const Golden& g, const std::vector<float>& keys) {
  const int32_t kv_heads = g.Int("kv_heads");
  const int32_t head_dim = g.Int("head_dim");
  const int64_t head = int64_t{kBlockTokens} * head_dim;
  const int32_t rows = g.Int("rows");
  std::vector<Bf16> kv((rows / kBlockTokens + 1) * 2 * kv_heads * head, ToBf16(0));
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t h = 0; h < kv_heads; ++h) {
      for (int32_t i = 0; i < head_dim; ++i) {
        kv[(int64_t{row / kBlockTokens} * 2 * kv_heads + h) * head + row % kBlockTokens * head_dim +
           i] = ToBf16(keys[(row * kv_heads + h) * head_dim + i]);
      }
    }
  }
  return kv;
}

void ExpectAutogradsGradients(const Golden& g) {
  const auto x = g.Floats("x");
  const auto q = g.Floats("q");
  auto kv = PackKeys(g, g.Floats("keys"));
  const auto queries = g.Ints("queries");
  const auto positions = g.Ints("positions");
  const auto inv_freq = g.Floats("inv_freq");
  const std::vector<int32_t> block_table = {0, 1, 2};
  std::vector<std::vector<float>> weights;
  std::vector<std::vector<float>> gradients;
  for (const char* name : {"q", "k", "w", "k_norm"}) {
    weights.push_back(g.json.at("weights").at(name).get<std::vector<float>>());
    gradients.emplace_back(weights.back().size(), 0.0f);
  }
  DistillArgs args{};
  args.rows = g.Int("rows");
  args.hidden = g.Int("hidden");
  args.x = x.data();
  args.q = q.data();
  args.layer.kv = kv.data();
  args.layer.num_blocks = 3;
  args.layer.block_tokens = kBlockTokens;
  args.layer.kv_heads = g.Int("kv_heads");
  args.layer.head_dim = g.Int("head_dim");
  args.block_table = block_table.data();
  args.q_heads = g.Int("q_heads");
  args.teacher_scale = g.Float("teacher_scale");
  args.num_queries = static_cast<int32_t>(queries.size());
  args.queries = queries.data();
  args.positions = positions.data();
  args.rope = {inv_freq.data(), g.Int("dim"), 1.0f};
  args.heads = g.Int("heads");
  args.groups = g.Int("groups");
  args.dim = g.Int("dim");
  args.norm_eps = g.Float("eps");
  args.sink_tokens = g.Int("sinks");
  args.recency_tokens = g.Int("recency");
  args.full_weight = g.Float("full_weight");
  args.residual_weight = g.Float("residual_weight");
  args.recall_fraction = 0.1f;
  args.gradient_scale = 1.0f;
  args.weights = {weights[0].data(), weights[1].data(), weights[2].data(), weights[3].data()};
  args.gradients = {gradients[0].data(), gradients[1].data(), gradients[2].data(),
                    gradients[3].data()};

  const auto kernels = cpu::CreateCpuDistillKernels(2);
  kernels->Accumulate(args);
  EXPECT_NEAR(kernels->TakeStats()->loss, g.json.at("loss").get<double>(), 1e-5);
  size_t part = 0;
  for (const char* name : {"q", "k", "w", "k_norm"}) {
    const auto expected = g.json.at("gradients").at(name).get<std::vector<double>>();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(gradients[part][i], expected[i], 1e-4 + 1e-4 * std::abs(expected[i]))
          << name << "[" << i << "]";
    }
    ++part;
  }
}

TEST(DistillGoldenTest, LossAndGradientsMatchAutograd) {
  nlohmann::json goldens;
  std::ifstream(std::string(SPOTD_SOURCE_DIR) + "/tests/data/distill/distill_goldens.json") >>
      goldens;
  ASSERT_EQ(goldens.size(), 2u);
  for (const nlohmann::json& golden : goldens) {
    SCOPED_TRACE(testing::Message() << golden.at("groups") << " groups");
    ExpectAutogradsGradients({golden});
  }
}

}  // namespace
}  // namespace spotd::kernels
