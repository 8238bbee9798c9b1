// What calibration measures and how it buys budgets, on a tiny random model.
#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "runtime/distill/budget_search.h"
#include "runtime/distill/reliability.h"
#include "runtime/distill/tail_meter.h"
#include "tests/runtime/tiny_model.h"

namespace spotd::distill {
namespace {

constexpr int32_t kContext = 512;
constexpr int32_t kTail = 8;
constexpr int32_t kRows = 24;

TEST(BuyLevelsTest, SpendsWhereItHelpsMost) {
  // Layer 0 gains ten times as much for the same density.
  const std::vector<std::vector<Move>> moves = {{{0, 0, 0}, {1, -10, 0.1}, {2, -11, 0.2}},
                                                {{0, 0, 0}, {1, -1, 0.1}, {2, -1.5, 0.2}}};
  EXPECT_EQ(BuyLevels(moves, 0.101), (Levels{1, 0}));
  EXPECT_EQ(BuyLevels(moves, 0.201), (Levels{1, 1}));
  EXPECT_EQ(BuyLevels(moves, 0.301), (Levels{2, 1}));
  EXPECT_EQ(BuyLevels(moves, 1.0), (Levels{2, 2}));
}

TEST(BuyLevelsTest, PassesOverLevelsThatCostMoreAndHelpLess) {
  const std::vector<std::vector<Move>> moves = {{{0, 0, 0}, {1, 2, 0.1}, {2, -5, 0.15}}};
  EXPECT_EQ(BuyLevels(moves, 0.12), (Levels{0}));
  EXPECT_EQ(BuyLevels(moves, 0.16), (Levels{2}));
}

TEST(LeastLossTest, OnlyNumbersWin) {
  EXPECT_EQ(LeastLoss(std::vector<double>{NAN, 2, 1, NAN, 1, INFINITY}), 2u);
  EXPECT_EQ(LeastLoss(std::vector<double>{NAN, -INFINITY, INFINITY}), std::nullopt);
  EXPECT_EQ(LeastLoss({}), std::nullopt);
}

class CalibrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = kernels::CreateBackend({"cpu", 2});
    ASSERT_TRUE(backend.ok());
    backend_ = *std::move(backend);
    selector_config_.heads = 2;
    selector_config_.dim = 32;
    model::Limits limits;
    limits.max_prefill_chunk = kContext;
    limits.max_context = kContext;
    limits.max_batch = kRows;
    auto transformer = model::Transformer::Load(backend_.get(), source_, NewSelector(), limits);
    ASSERT_TRUE(transformer.ok()) << transformer.status();
    transformer_ = *std::move(transformer);
    const auto layout = transformer_->KvLayoutFor(kernels::SelectorKeyFormat::kBf16);
    auto store = kvstore::KvStore::Create(backend_.get(), layout,
                                          layout.BytesPerBlock() * (kContext / 16 + 2 * kRows));
    ASSERT_TRUE(store.ok());
    store_ = *std::move(store);
    transformer_->AttachStore(store_.get());
    std::mt19937 random(5);
    for (auto& document : documents_) {
      document.resize(kContext);
      for (int32_t& token : document) token = static_cast<int32_t>(random() % 256);
    }
  }

  std::unique_ptr<model::SelectorSource> NewSelector() const {
    return model::RandomSelector(source_.config(), selector_config_, 3);
  }
  std::vector<std::span<const int32_t>> Documents() const { return {documents_[0], documents_[1]}; }
  TailMeter Meter(int32_t answer_of_second = 0) {
    return TailMeter(transformer_.get(), store_.get(),
                     {{documents_[0]}, {documents_[1], answer_of_second}}, kTail, 2);
  }

  static kernels::BudgetRule ShareRule(float share) {
    kernels::BudgetRule rule = ResidualFamily().levels.front();
    rule.sink_tokens = 16;
    rule.recency_tokens = 16;
    rule.p_residual = share;
    return rule;
  }

  spotd::testing::TinySource source_{3};
  model::SelectorConfig selector_config_;
  std::array<std::vector<int32_t>, 2> documents_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::Transformer> transformer_;
  std::unique_ptr<kvstore::KvStore> store_;
};

TEST_F(CalibrationTest, ReadingEverythingIsDenseAndALayerCanStayDense) {
  const kernels::BudgetRule all = ShareRule(1.0f);
  const kernels::BudgetRule little = ShareRule(1e-6f);
  const std::vector<Variant> variants = {{model::PolicyKind::kDistilled, {all, all}},
                                         {model::PolicyKind::kDistilled, {all, little}},
                                         {model::PolicyKind::kDistilled, {little, little}}};
  TailMeter meter = Meter();
  const auto figures = meter.Measure(variants);
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_NEAR((*figures)[0].density, 1.0, 1e-9);
  EXPECT_NEAR((*figures)[0].kl, 0.0, 1e-6);
  EXPECT_LT((*figures)[2].density, 0.2);
  EXPECT_GT((*figures)[2].kl, 1e-5);
  EXPECT_NEAR((*figures)[1].density, (1.0 + (*figures)[2].density) / 2, 0.01);
}

TEST_F(CalibrationTest, AnswersAreMeasuredApartFromPlainText) {
  const kernels::BudgetRule little = ShareRule(1e-6f);
  const std::vector<Variant> variants = {{model::PolicyKind::kDistilled, {little, little}}};
  TailMeter plain = Meter();
  TailMeter mixed = Meter(3);
  TailMeter first(transformer_.get(), store_.get(), {{documents_[0]}}, kTail, 2);
  TailMeter whole(transformer_.get(), store_.get(), {{documents_[1], kTail - 1}}, kTail, 2);
  const auto both = plain.Measure(variants)->front();
  const auto split = mixed.Measure(variants)->front();
  const auto alone = first.Measure(variants)->front();
  const auto answer = whole.Measure(variants)->front();
  EXPECT_EQ(both.answer_kl, 0);
  EXPECT_EQ(split.kl, alone.kl);
  EXPECT_EQ(split.density, alone.density);
  EXPECT_GT(split.answer_kl, 0);
  EXPECT_EQ(answer.density, 0);
  // An answer that fills the tail sees what plain text sees.
  EXPECT_NEAR(answer.answer_kl, 2 * both.kl - alone.kl, 1e-9);
  EXPECT_NE(split.answer_kl, answer.answer_kl);
}

// On the tiny model: each family's levels read more and more, and the last reads everything.
TEST_F(CalibrationTest, LevelsOfEveryFamilyGrow) {
  for (const RuleFamily& family :
       {ResidualFamily(), TotalFamily(), FractionFamily(), FloorFamily(), DenseFamily()}) {
    std::vector<Variant> variants;
    for (size_t level = 0; level < family.levels.size(); ++level) {
      variants.push_back(VariantOf(family, {level, level}));
    }
    TailMeter meter = Meter();
    const auto figures = meter.Measure(variants);
    ASSERT_TRUE(figures.ok()) << figures.status();
    for (size_t level = 1; level < figures->size(); ++level) {
      EXPECT_GE((*figures)[level].density, (*figures)[level - 1].density - 1e-9)
          << family.name << " " << level;
    }
    EXPECT_NEAR(figures->back().density, 1.0, 1e-9) << family.name;
  }
}

TEST_F(CalibrationTest, NoRuleReadsLessThanTheReservedTokens) {
  kernels::BudgetRule reserved = ResidualFamily().levels.front();
  reserved.kind = kernels::BudgetKind::kReservedOnly;
  const std::vector<Variant> variants = {{model::PolicyKind::kDistilled, {reserved, reserved}}};
  TailMeter meter = Meter();
  const auto figures = meter.Measure(variants);
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_NEAR(figures->front().density, ReservedDensity(kContext, kTail, 16), 1e-9);
  EXPECT_EQ(ReservedDensity(80, kTail, 16), 1);
}

// Two levels: what the answers need decides, once they count enough.
TEST_F(CalibrationTest, TheSearchBuysWhatAnswersNeed) {
  RuleFamily family{"test", {ShareRule(1e-6f), ShareRule(1.0f)}};
  TailMeter meter = Meter(3);
  SearchOptions options;
  options.density = 0.6;
  options.answer_weight = 100;
  const auto result = SearchBudget(meter, family, 2, options);
  ASSERT_TRUE(result.ok()) << result.status();
  std::vector<Variant> one_dense;
  for (const Levels& levels : {Levels{0, 1}, Levels{1, 0}}) {
    one_dense.push_back(VariantOf(family, levels));
  }
  const auto figures = *meter.Measure(one_dense);
  const Levels best = figures[0].answer_kl < figures[1].answer_kl ? Levels{0, 1} : Levels{1, 0};
  EXPECT_EQ(result->levels, best);
  // The same again gives the same, bit for bit.
  EXPECT_EQ(SearchBudget(meter, family, 2, options)->figures.answer_kl, result->figures.answer_kl);
}

TEST_F(CalibrationTest, TheSearchKeepsToItsDensity) {
  RuleFamily family{"test", {}};
  for (const float share : {1e-6f, 0.2f, 0.4f, 0.6f, 0.8f})
    family.levels.push_back(ShareRule(share));
  TailMeter meter = Meter();
  SearchOptions options;
  options.density = 0.5;
  const auto result = SearchBudget(meter, family, 2, options);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->levels.size(), 2u);
  EXPECT_LT(result->figures.density, 0.55);
  EXPECT_GT(result->figures.density, 0.2);
}

TEST_F(CalibrationTest, OverconfidentScoresAreFoundOut) {
  // The random model attends almost evenly; the random selector's scores scaled up do not.
  const auto kernels = kernels::CreateDistillKernels(backend_.get(), 2);
  ASSERT_TRUE(kernels.ok());
  ReliabilityOptions options;
  options.queries = 16;
  options.sink_tokens = 16;
  options.recency_tokens = 16;
  options.scales = {0.1f, 8.0f};
  const auto documents = Documents();
  const auto errors = MeasureReliability(backend_.get(), transformer_.get(), store_.get(),
                                         kernels->get(), *NewSelector(), documents, options);
  ASSERT_TRUE(errors.ok()) << errors.status();
  ASSERT_EQ(errors->size(), 2u);
  for (const std::vector<double>& layer : *errors) {
    EXPECT_LT(layer[0], 0.05);
    EXPECT_GT(layer[1], 2 * layer[0]);
  }
}

}  // namespace
}  // namespace spotd::distill
