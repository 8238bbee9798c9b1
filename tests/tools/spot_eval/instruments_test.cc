// The instruments in front of the backend, on a tiny random model.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tools/spot_eval/agreement.h"
#include "tools/spot_eval/eval_model.h"
#include "tools/spot_eval/mass_probe.h"

namespace spotd::eval {
namespace {

constexpr int32_t kContext = 128;
constexpr int32_t kTail = 8;

// Few reserved tokens, so that seven or eight blocks leave something to choose.
PolicySpec Spec(const std::string& text) {
  PolicySpec spec = *ParsePolicySpec(text, kContext);
  spec.policy.sink_tokens = 16;
  spec.policy.recency_tokens = 16;
  spec.policy.k_min_tokens = 0;
  return spec;
}

class InstrumentsTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<EvalModel> Load(bool probing) {
    tools::ModelOptions options;
    options.model = std::string(SPOTD_SOURCE_DIR) + "/tests/data/models/qwen3";
    options.random_selector = true;
    options.backend = GetParam();
    options.threads = 2;
    options.max_context = kContext;
    options.max_batch = 16;
    options.kv_tokens = 8192;
    options.chunk = 32;
    auto model = EvalModel::Load(options);
    EXPECT_TRUE(model.ok()) << model.status();
    (*model)->set_probing(probing);
    return *std::move(model);
  }

  std::vector<Agreement> Measure(EvalModel& model, const std::vector<PolicySpec>& specs) {
    Document document;
    for (int32_t i = 0; i < kContext; ++i) {
      document.tokens.push_back((i * i * 7 + i * 3) % model.config().vocab);
    }
    auto measured = MeasureAgreement(model, {&document, 1}, {kContext, kContext, kTail}, specs);
    EXPECT_TRUE(measured.ok()) << measured.status();
    return (*measured)[0];
  }
};

TEST_P(InstrumentsTest, AllowedEverythingEveryPolicyIsDense) {
  const auto model = Load(true);
  const auto results = Measure(*model, {Spec("full"), Spec("distilled@1"), Spec("quest@1"),
                                        Spec("oracle@1"), Spec("twilight@1:1")});
  for (const Agreement& a : results) {
    EXPECT_LT(a.kl, 1e-5);
    EXPECT_NEAR(a.nll, a.dense_nll, 1e-4);
    EXPECT_DOUBLE_EQ(a.top1, 1);
    EXPECT_NEAR(a.reading.density(), 1, 1e-9);
  }
}

TEST_P(InstrumentsTest, TheProbeChangesNothing) {
  const std::vector<PolicySpec> specs = {Spec("topk@0.5"), Spec("quest@0.5"), Spec("window"),
                                         Spec("twilight@0.8:0.75")};
  const auto with = Load(true);
  const auto without = Load(false);
  const auto a = Measure(*with, specs);
  const auto b = Measure(*without, specs);
  for (size_t p = 0; p < specs.size(); ++p) {
    EXPECT_DOUBLE_EQ(a[p].kl, b[p].kl);
    EXPECT_DOUBLE_EQ(a[p].reading.density(), b[p].reading.density());
    EXPECT_EQ(a[p].reading.layers.size(), 2u);
    EXPECT_TRUE(b[p].reading.layers.empty());
  }
}

TEST_P(InstrumentsTest, OnlyTheOracleIsAsGoodAsTheOracle) {
  const auto model = Load(true);
  const auto results = Measure(*model, {Spec("oracle@0.5"), Spec("topk@0.5"), Spec("quest@0.5")});
  for (size_t p = 0; p < results.size(); ++p) {
    for (const LayerReading& layer : results[p].reading.layers) {
      EXPECT_LE(layer.mass, layer.oracle + 1e-6);
      // Of as many blocks, one choice for all heads holds no more than one for each.
      EXPECT_LE(layer.layer_oracle, layer.oracle + 1e-6);
      EXPECT_GT(layer.mass, 0);
      if (p == 0) {
        EXPECT_NEAR(layer.mass, layer.oracle, 1e-4);
        EXPECT_NEAR(layer.mass, layer.believed, 1e-4);
      }
    }
  }
  // Random selector weights choose by chance.
  EXPECT_LT(results[1].reading.layers[0].mass, results[1].reading.layers[0].oracle - 1e-3);
}

TEST_P(InstrumentsTest, TwilightPrunesItsSuperset) {
  const auto model = Load(false);
  const auto results = Measure(*model, {Spec("quest@0.75"), Spec("twilight@0.4:0.75"),
                                        Spec("twilight@0.7:0.75"), Spec("twilight@1:0.75")});
  EXPECT_LT(results[1].reading.density(), results[2].reading.density());
  EXPECT_LT(results[2].reading.density(), results[0].reading.density());
  // Nothing pruned: Quest's choice, and the estimates' bytes on top.
  EXPECT_NEAR(results[3].reading.density(), results[0].reading.density(), 1e-9);
  EXPECT_NEAR(results[3].kl, results[0].kl, 1e-6);
  EXPECT_GT(results[3].reading.bytes_read, results[0].reading.bytes_read);
}

TEST_P(InstrumentsTest, KeysLoseAtMostHalfAStepInTheirInt4Copies) {
  const auto model = Load(false);
  kvstore::KvStore& store = model->loaded().store();
  std::vector<int32_t> tokens(48);
  std::iota(tokens.begin(), tokens.end(), 1);
  kvstore::BlockTable table = store.NewTable();
  ASSERT_TRUE(model->loaded().Prefill(tokens, &table).ok());
  kvstore::BlockTable* const prefix = &table;
  const auto copies = model->QuantiseKeys({&prefix, 1});
  ASSERT_TRUE(copies.ok()) << copies.status();
  const auto dim = static_cast<size_t>(store.layout().head_dim);
  const auto keys = static_cast<size_t>(store.layout().kv_heads * store.layout().block_tokens);
  const kernels::KvLayer layer = store.LayerView(1);
  const size_t block_elements = store.layout().KvBlockBytes() / sizeof(Bf16);
  bool differs = false;
  for (size_t b = 0; b < 3; ++b) {
    const Bf16* exact = static_cast<const Bf16*>(layer.kv) +
                        static_cast<size_t>(table.blocks()[b]) * block_elements;
    const Bf16* rounded = static_cast<const Bf16*>(layer.kv) +
                          static_cast<size_t>((*copies)[0].blocks()[b]) * block_elements;
    for (size_t key = 0; key < keys; ++key) {
      float largest = 0;
      for (size_t i = 0; i < dim; ++i) {
        largest = std::max(largest, std::abs(ToFloat(exact[key * dim + i])));
      }
      for (size_t i = 0; i < dim; ++i) {
        const float error = ToFloat(rounded[key * dim + i]) - ToFloat(exact[key * dim + i]);
        EXPECT_LE(std::abs(error), largest / 14 + largest / 256);  // and bf16's rounding
        differs |= error != 0;
      }
    }
  }
  EXPECT_TRUE(differs);
}

INSTANTIATE_TEST_SUITE_P(Backends, InstrumentsTest, ::testing::Values("cpu", "ref"));

TEST(MassProbeTest, BestMassTakesTheHeaviestOfTheResidual) {
  kernels::BudgetRule rule = {};
  rule.sink_tokens = 16;
  rule.recency_tokens = 1;
  // Six blocks; the first and the last are reserved.
  const std::vector<float> masses = {0.1f, 0.2f, 0.05f, 0.4f, 0.15f, 0.1f};
  EXPECT_NEAR(BestMass(masses, 2, rule, 96, 16), 0.2, 1e-6);
  EXPECT_NEAR(BestMass(masses, 3, rule, 96, 16), 0.6, 1e-6);
  EXPECT_NEAR(BestMass(masses, 4, rule, 96, 16), 0.8, 1e-6);
  EXPECT_NEAR(BestMass(masses, 6, rule, 96, 16), 1.0, 1e-6);
}

}  // namespace
}  // namespace spotd::eval
