#include "runtime/model/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace spotd::model {
namespace {

using ::testing::HasSubstr;

TEST(PolicyTest, NamesRoundTrip) {
  for (const char* name : {"full", "distilled", "quest", "topk", "window", "oracle"}) {
    const auto kind = ParsePolicy(name);
    ASSERT_TRUE(kind.ok()) << name;
    EXPECT_EQ(PolicyName(*kind), name);
  }
}

TEST(PolicyTest, UnknownNameListsTheKnown) {
  const auto kind = ParsePolicy("Full");
  EXPECT_EQ(kind.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(kind.status().message()),
              HasSubstr("full, distilled, quest, topk, window, oracle"));
}

TEST(PolicyTest, DefaultsAreValid) {
  EXPECT_TRUE(Policy{}.Validate().ok());
}

TEST(PolicyTest, RefusesSharesOutsideTheirRange) {
  for (float Policy::*field : {&Policy::p_residual, &Policy::p_total, &Policy::fraction}) {
    for (const float bad : {0.0f, -0.1f, 1.001f, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
      Policy policy;
      policy.*field = bad;
      EXPECT_EQ(policy.Validate().code(), absl::StatusCode::kInvalidArgument) << bad;
    }
    Policy policy;
    policy.*field = 1.0f;
    EXPECT_TRUE(policy.Validate().ok());
  }
}

TEST(PolicyTest, RefusesTokenCountsOutsideTheirRange) {
  for (int32_t Policy::*field :
       {&Policy::k_tokens, &Policy::sink_tokens, &Policy::recency_tokens, &Policy::k_min_tokens,
        &Policy::k_max_tokens, &Policy::dense_below_tokens}) {
    for (const int32_t bad : {-1, std::numeric_limits<int32_t>::max()}) {
      Policy policy;
      policy.*field = bad;
      EXPECT_EQ(policy.Validate().code(), absl::StatusCode::kInvalidArgument) << bad;
    }
  }
}

TEST(PolicyTest, ErrorsNameTheField) {
  Policy policy;
  policy.k_max_tokens = 100;
  EXPECT_THAT(std::string(policy.Validate().message()),
              HasSubstr("policy.k_max_tokens is 100, below k_min_tokens, 512"));
}

TEST(PolicyTest, RulesOfEachKind) {
  using kernels::BudgetKind;
  const auto rule = [](PolicyKind kind, int32_t k_tokens) {
    Policy policy;
    policy.kind = kind;
    policy.k_tokens = k_tokens;
    return policy.Rule();
  };
  EXPECT_EQ(rule(PolicyKind::kDistilled, 0).kind, BudgetKind::kDualTopP);
  EXPECT_EQ(rule(PolicyKind::kQuest, 0).kind, BudgetKind::kFixedFraction);
  EXPECT_EQ(rule(PolicyKind::kQuest, 64).kind, BudgetKind::kFixedTokens);
  EXPECT_EQ(rule(PolicyKind::kTopK, 64).k_tokens, 64);
  EXPECT_EQ(rule(PolicyKind::kTopK, 0).kind, BudgetKind::kFixedTokens);
  EXPECT_EQ(rule(PolicyKind::kTopK, 0).k_tokens, 2048);
  EXPECT_EQ(rule(PolicyKind::kWindow, 0).kind, BudgetKind::kReservedOnly);
  EXPECT_EQ(rule(PolicyKind::kWindow, 0).recency_tokens, 512 - 16) << "its floor, less the sinks";
  EXPECT_EQ(rule(PolicyKind::kOracle, 0).kind, BudgetKind::kDualTopP);
  EXPECT_EQ(rule(PolicyKind::kOracle, 64).kind, BudgetKind::kFixedTokens);
}

TEST(PolicyTest, DefaultsGiveALayerItsCalibratedBudget) {
  Policy policy;
  policy.kind = PolicyKind::kDistilled;
  const kernels::BudgetRule rule = policy.LayerRule({0.6f, 0.9f, 384});
  EXPECT_EQ(rule.kind, kernels::BudgetKind::kDualTopP);
  EXPECT_EQ(rule.p_residual, 0.6f);
  EXPECT_EQ(rule.p_total, 0.9f);
  EXPECT_EQ(rule.k_min_tokens, 384);
  EXPECT_EQ(rule.sink_tokens, policy.sink_tokens);
}

TEST(PolicyTest, ARequestMovesEveryLayerTheSameWay) {
  Policy policy;
  policy.kind = PolicyKind::kDistilled;
  policy.p_residual = 0.9f;  // odds 9 instead of 4
  policy.k_min_tokens = 1024;
  const kernels::BudgetRule rule = policy.LayerRule({0.5f, 0.9f, 384});
  EXPECT_NEAR(rule.p_residual, 2.25 / 3.25, 1e-6);
  EXPECT_EQ(rule.p_total, 0.9f);
  EXPECT_EQ(rule.k_min_tokens, 768);
  policy.p_residual = 0.6f;
  EXPECT_LT(policy.LayerRule({0.5f, 0.9f, 384}).p_residual, 0.5f);
}

TEST(PolicyTest, AFloorOfEverythingStaysOneHoweverMuchMoreIsAsked) {
  Policy policy;
  policy.kind = PolicyKind::kDistilled;
  for (const int32_t asked : {512, 16384, 32768, 1 << 26}) {
    policy.k_min_tokens = asked;
    EXPECT_EQ(policy.LayerRule({0.45f, 1.0f, 1 << 26}).k_min_tokens, 1 << 26) << asked;
  }
}

TEST(PolicyTest, DenseLayersStayDenseAndAskingForEverythingGivesIt) {
  Policy policy;
  policy.kind = PolicyKind::kDistilled;
  policy.p_residual = 0.7f;
  EXPECT_EQ(policy.LayerRule({1.0f, 1.0f, 0}).p_residual, 1.0f);
  EXPECT_EQ(policy.LayerRule({1.0f, 1.0f, 0}).p_total, 1.0f);
  policy.p_residual = policy.p_total = 1.0f;
  EXPECT_EQ(policy.LayerRule({0.3f, 0.5f, 0}).p_residual, 1.0f);
  EXPECT_EQ(policy.LayerRule({0.3f, 0.5f, 0}).p_total, 1.0f);
}

TEST(PolicyTest, OtherPoliciesIgnoreTheCalibratedBudget) {
  Policy policy;
  policy.kind = PolicyKind::kOracle;
  const kernels::BudgetRule rule = policy.LayerRule({0.3f, 0.5f, 0});
  EXPECT_EQ(rule.p_residual, policy.p_residual);
  EXPECT_EQ(rule.k_min_tokens, policy.k_min_tokens);
}

TEST(PolicyTest, ReadsDenselyWhileChoosingCostsMore) {
  const kernels::ChoosingCost cost = {40 << 20, 100 << 20};
  EXPECT_EQ(DenseBelowTokens(PolicyKind::kTopK, cost, 8, 128), 10240);
  EXPECT_EQ(DenseBelowTokens(PolicyKind::kDistilled, cost, 2, 64), 81920);
  EXPECT_EQ(DenseBelowTokens(PolicyKind::kQuest, cost, 8, 128), 25600);
  EXPECT_EQ(DenseBelowTokens(PolicyKind::kWindow, cost, 8, 128), Policy{}.dense_below_tokens);
  EXPECT_EQ(DenseBelowTokens(PolicyKind::kQuest, {}, 8, 128), Policy{}.dense_below_tokens);
}

}  // namespace
}  // namespace spotd::model
