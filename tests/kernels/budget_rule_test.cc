#include "kernels/core/budget_rule.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace spotd::kernels {
namespace {

struct Choice {
  std::vector<int32_t> blocks;
  float covered;
};

Choice Choose(const BudgetRule& rule, int32_t context, int32_t block_tokens,
              const std::vector<float>& lse) {
  const auto n = static_cast<size_t>((context + block_tokens - 1) / block_tokens);
  std::vector<int32_t> selected(n + 1, -7);
  std::vector<uint32_t> mass(n);
  const BudgetChoice choice =
      ChooseBlocks(rule, context, block_tokens, lse.empty() ? nullptr : lse.data(), selected.data(),
                   mass.data());
  EXPECT_EQ(selected[n], -7) << "wrote beyond the blocks";
  selected.resize(static_cast<size_t>(choice.count));
  return {selected, choice.covered};
}

// The rule as its text says it: sort, then walk, on exact masses.
Choice SlowChoose(const BudgetRule& rule, int32_t context, int32_t block_tokens,
                  const std::vector<float>& lse) {
  const int32_t n = (context + block_tokens - 1) / block_tokens;
  std::set<int32_t> chosen;
  for (int32_t token = 0; token < context; ++token) {
    const bool sink = token < rule.sink_tokens;
    const bool recent = token >= context - std::max(1, rule.recency_tokens);
    if (sink || recent) chosen.insert(token / block_tokens);
  }
  if (rule.kind == BudgetKind::kReservedOnly) return {{chosen.begin(), chosen.end()}, 1.0f};
  std::vector<float> clean = lse;
  for (float& x : clean) x = std::isnan(x) ? -INFINITY : x;
  std::vector<int32_t> order;
  for (int32_t b = 0; b < n; ++b) {
    if (chosen.count(b) == 0) order.push_back(b);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return clean[static_cast<size_t>(a)] > clean[static_cast<size_t>(b)];
  });
  float max = -INFINITY, reserved_max = -INFINITY;
  for (const int32_t b : order) max = std::max(max, clean[static_cast<size_t>(b)]);
  for (const int32_t b : chosen)
    reserved_max = std::max(reserved_max, clean[static_cast<size_t>(b)]);
  // Exact integers: the masses are part of the rule's definition.
  __int128 residual = 0;
  for (const int32_t b : order) residual += BudgetMass(clean[static_cast<size_t>(b)], max);
  long double reserved = 0;
  for (const int32_t b : chosen) {
    const uint32_t mass = BudgetMass(clean[static_cast<size_t>(b)], reserved_max);
    if (mass == 0) continue;
    const long double shift = residual == 0 ? 0.0L : (long double){reserved_max} - max;
    reserved += static_cast<long double>(mass) * std::exp(std::min(shift, 600.0L));
  }
  const auto paid = [&](int32_t tokens) {
    return tokens >= context ? n : std::min(n, tokens / block_tokens);
  };
  const auto floor = std::min(n, (rule.k_min_tokens + block_tokens - 1) / block_tokens);
  const int32_t cap = rule.k_max_tokens > 0 ? paid(rule.k_max_tokens) : n;
  __int128 taken = 0;
  for (const int32_t b : order) {
    const auto count = static_cast<int32_t>(chosen.size());
    bool enough = false;
    if (rule.kind == BudgetKind::kDualTopP) {
      const auto t = static_cast<long double>(taken);
      const auto s = static_cast<long double>(residual);
      enough = (rule.p_residual < 1 && t >= rule.p_residual * s) ||
               (rule.p_total < 1 && reserved + t >= rule.p_total * (reserved + s));
    } else if (rule.kind == BudgetKind::kFixedTokens) {
      enough = count >= paid(rule.k_tokens);
    } else {
      enough = count >= static_cast<int32_t>(std::floor(double{rule.fraction} * n + 0.5));
    }
    if (count >= cap || (enough && count >= floor)) break;
    chosen.insert(b);
    taken += BudgetMass(clean[static_cast<size_t>(b)], max);
  }
  const long double all = reserved + static_cast<long double>(residual);
  const long double covered =
      taken == residual ? 1.0L : (reserved + static_cast<long double>(taken)) / all;
  return {{chosen.begin(), chosen.end()}, static_cast<float>(covered)};
}

BudgetRule TopP(float p_residual, float p_total) {
  return {BudgetKind::kDualTopP, p_residual, p_total, 0, 0, 128, 256, 512, 0};
}

// Named distributions over n blocks, the awkward ones included.
std::vector<std::pair<std::string, std::vector<float>>> Distributions(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> flat(n, -3.25f), spike(n, -20.0f), tiny(n), empty(n, -INFINITY), wide(n),
      usual(n), mixed(n), huge(n), reserved(n, -40.0f);
  spike[n / 2] = 5.0f;
  reserved[0] = 60.0f;
  for (size_t i = 0; i < n; ++i) {
    tiny[i] = 1.0f + static_cast<float>(random() % 4) * 0x1p-23f;
    wide[i] = 30 * normal(random);
    usual[i] = 2 * normal(random);
    mixed[i] = i % 3 == 0 ? -INFINITY : i % 7 == 0 ? NAN : normal(random);
    huge[i] = 1e38f * normal(random);
  }
  std::vector<float> infinite = usual;
  infinite[n / 3] = INFINITY;
  return {{"flat", flat},         {"spike", spike},      {"tiny", tiny},   {"empty", empty},
          {"wide", wide},         {"usual", usual},      {"mixed", mixed}, {"huge", huge},
          {"reserved", reserved}, {"infinite", infinite}};
}

std::vector<BudgetRule> Rules() {
  std::vector<BudgetRule> rules = {TopP(0.7f, 0.98f), TopP(0.9f, 1.0f), TopP(1.0f, 0.9f),
                                   TopP(1.0f, 1.0f), TopP(1e-6f, 1e-6f)};
  BudgetRule rule = TopP(0.8f, 0.98f);
  rule.sink_tokens = rule.recency_tokens = rule.k_min_tokens = 0;
  rules.push_back(rule);
  rule.k_max_tokens = 100;
  rules.push_back(rule);
  rule.kind = BudgetKind::kFixedFraction;
  for (const float fraction : {0.01f, 0.1f, 0.7f, 1.0f}) {
    rule.fraction = fraction;
    rule.k_max_tokens = 0;
    rules.push_back(rule);
    rule.sink_tokens = 33;
    rule.recency_tokens = 65;
    rules.push_back(rule);
  }
  rule.kind = BudgetKind::kFixedTokens;
  for (const int32_t tokens : {1, 100, 2048, 1 << 30}) {
    rule.k_tokens = tokens;
    rules.push_back(rule);
  }
  rule.kind = BudgetKind::kReservedOnly;
  rules.push_back(rule);
  return rules;
}

TEST(ChooseBlocks, AgreesWithTheSlowRule) {
  for (const int32_t block_tokens : {16, 64}) {
    for (const int32_t context : {1, 15, 16, 17, 300, 400, 1000, 4111}) {
      const auto n = static_cast<size_t>((context + block_tokens - 1) / block_tokens);
      for (const auto& [name, lse] : Distributions(n, 1)) {
        size_t index = 0;
        for (const BudgetRule& rule : Rules()) {
          const Choice fast = Choose(rule, context, block_tokens, lse);
          const Choice slow = SlowChoose(rule, context, block_tokens, lse);
          ASSERT_EQ(fast.blocks, slow.blocks) << name << " rule " << index << " at " << context;
          ASSERT_NEAR(fast.covered, slow.covered, 1e-6) << name << " rule " << index;
          ASSERT_FALSE(std::isnan(fast.covered));
          ++index;
        }
      }
    }
  }
}

TEST(ChooseBlocks, AgreesOnAMillionTokens) {
  constexpr int32_t kContext = 65536 * 16;
  for (const auto& [name, lse] : Distributions(65536, 2)) {
    for (const float p : {0.7f, 0.9f}) {
      EXPECT_EQ(Choose(TopP(p, 0.98f), kContext, 16, lse).blocks,
                SlowChoose(TopP(p, 0.98f), kContext, 16, lse).blocks)
          << name;
    }
  }
}

TEST(ChooseBlocks, AlwaysHoldsSinksRecencyAndFloor) {
  for (const auto& [name, lse] : Distributions(400, 3)) {
    for (const float p : {0.01f, 0.8f}) {
      const BudgetRule rule = TopP(p, p);
      const std::vector<int32_t> blocks = Choose(rule, 400 * 16 - 5, 16, lse).blocks;
      EXPECT_TRUE(std::is_sorted(blocks.begin(), blocks.end())) << name;
      EXPECT_EQ(std::set<int32_t>(blocks.begin(), blocks.end()).size(), blocks.size()) << name;
      EXPECT_GE(blocks.size(), 512u / 16) << name;
      for (int32_t b = 0; b < 128 / 16; ++b)
        EXPECT_TRUE(std::count(blocks.begin(), blocks.end(), b));
      // The last 256 of 6395 tokens begin at 6139, inside block 383.
      for (int32_t b = 383; b < 400; ++b) EXPECT_TRUE(std::count(blocks.begin(), blocks.end(), b));
    }
  }
}

TEST(ChooseBlocks, MoreProbabilityNeverTakesFewerBlocks) {
  for (const auto& [name, lse] : Distributions(500, 4)) {
    for (const bool residual : {false, true}) {
      std::vector<int32_t> smaller;
      float covered = 0;
      for (int step = 1; step <= 50; ++step) {
        const float p = static_cast<float>(step) / 50;
        BudgetRule rule = residual ? TopP(p, 1.0f) : TopP(1.0f, p);
        rule.k_min_tokens = 0;
        const Choice larger = Choose(rule, 8000, 16, lse);
        EXPECT_TRUE(std::includes(larger.blocks.begin(), larger.blocks.end(), smaller.begin(),
                                  smaller.end()))
            << name << " p " << p;
        EXPECT_GE(larger.covered, covered) << name << " p " << p;
        smaller = larger.blocks;
        covered = larger.covered;
      }
      EXPECT_EQ(smaller.size(), 500u) << name << ": p = 1 drops nothing";
    }
  }
}

// The nucleus is the smallest that meets the rule: one block less would not.
TEST(ChooseBlocks, TakesNoMoreThanItNeeds) {
  BudgetRule rule = TopP(0.79f, 1.0f);
  rule.sink_tokens = rule.recency_tokens = rule.k_min_tokens = 0;
  std::vector<float> lse(101);
  for (size_t i = 0; i < 100; ++i) lse[i] = std::log(static_cast<float>(i % 10 + 1));
  lse[100] = -100;  // the newest block, reserved
  // 0.79 of 550 is 434.5: the ten blocks each of mass 10 to 6 (400), and seven of mass 5.
  const std::vector<int32_t> blocks = Choose(rule, 101 * 16, 16, lse).blocks;
  double mass = 0, least = 10;
  for (const int32_t b : blocks) {
    if (b == 100) continue;
    mass += b % 10 + 1;
    least = std::min(least, b % 10 + 1.0);
  }
  EXPECT_EQ(mass, 435);
  EXPECT_EQ(least, 5);
}

TEST(ChooseBlocks, TiesGoToTheLowerIndex) {
  BudgetRule rule = {BudgetKind::kFixedTokens, 0, 0, 0, 5 * 16, 0, 0, 0, 0};
  EXPECT_EQ(Choose(rule, 100 * 16, 16, std::vector<float>(100, -1.0f)).blocks,
            (std::vector<int32_t>{0, 1, 2, 3, 99}));
  std::vector<float> zeros(100, 0.0f);
  for (size_t i = 0; i < 100; i += 2) zeros[i] = -0.0f;  // equal to 0
  EXPECT_EQ(Choose(rule, 100 * 16, 16, zeros).blocks, (std::vector<int32_t>{0, 1, 2, 3, 99}));
}

TEST(ChooseBlocks, TheCapWinsOverTheFloorAndReservedBlocksOverBoth) {
  BudgetRule rule = TopP(0.9f, 1.0f);
  rule.k_max_tokens = 416;
  const std::vector<float> flat(500, 0.0f);
  EXPECT_EQ(Choose(rule, 8000, 16, flat).blocks.size(), 416u / 16);
  rule.k_max_tokens = 16;
  EXPECT_EQ(Choose(rule, 8000, 16, flat).blocks.size(), (128u + 256) / 16);
}

TEST(ChooseBlocks, AFlatRowBuysItselfABudget) {
  const std::vector<float> flat(1000, 0.0f);
  std::vector<float> peaked(1000, -20.0f);
  peaked[500] = 0.0f;
  EXPECT_GT(Choose(TopP(0.8f, 1.0f), 16000, 16, flat).blocks.size(), 790u);
  EXPECT_EQ(Choose(TopP(0.8f, 1.0f), 16000, 16, peaked).blocks.size(), 32u);
}

TEST(ChooseBlocks, AnEmptyRowChoosesNothing) {
  EXPECT_TRUE(Choose(TopP(0.8f, 0.9f), 0, 16, {}).blocks.empty());
}

TEST(ChooseBlocks, EnormousTokenCountsDoNotOverflow) {
  BudgetRule rule = TopP(0.8f, 0.9f);
  rule.sink_tokens = rule.recency_tokens = rule.k_min_tokens = INT32_MAX;
  EXPECT_EQ(Choose(rule, 1000, 16, std::vector<float>(63, 0.0f)).blocks.size(), 63u);
  rule.sink_tokens = 0;
  rule.k_max_tokens = INT32_MAX;
  EXPECT_EQ(Choose(rule, 1000, 16, std::vector<float>(63, 0.0f)).blocks.size(), 63u);
}

TEST(BudgetMass, IsTheExponential) {
  EXPECT_EQ(BudgetMass(2.5f, 2.5f), kBudgetUnit);
  EXPECT_EQ(BudgetMass(-INFINITY, 2.5f), 0u);
  EXPECT_EQ(BudgetMass(NAN, 2.5f), 0u);
  EXPECT_EQ(BudgetMass(-INFINITY, -INFINITY), 0u);
  EXPECT_EQ(BudgetMass(-1e38f, 1e38f), 0u);
  for (float below = 0; below < 25; below += 0.01f) {
    const double expected = std::exp(-double{below}) * kBudgetUnit;
    EXPECT_NEAR(BudgetMass(-below, 0), expected, 3e-6 * expected + 1) << below;
  }
}

TEST(BudgetMass, NeverFallsAsScoresRise) {
  uint32_t previous = 0;
  for (int i = -2000000; i <= 0; ++i) {
    const uint32_t mass = BudgetMass(static_cast<float>(i) * 1.2e-5f, 0);
    ASSERT_GE(mass, previous) << i;
    previous = mass;
  }
}

TEST(BudgetOrder, OrdersAsFloatsDo) {
  const float ascending[] = {-INFINITY, -1e38f, -1.0f, -1e-40f, 0.0f,
                             1e-40f,    1.0f,   1e38f, INFINITY};
  for (size_t i = 0; i + 1 < std::size(ascending); ++i) {
    EXPECT_LT(BudgetOrder(ascending[i]), BudgetOrder(ascending[i + 1])) << i;
  }
  EXPECT_EQ(BudgetOrder(-0.0f), BudgetOrder(0.0f));
  EXPECT_EQ(BudgetOrder(NAN), BudgetOrder(-INFINITY));
  EXPECT_EQ(BudgetOrder(-NAN), BudgetOrder(-INFINITY));
}

}  // namespace
}  // namespace spotd::kernels
