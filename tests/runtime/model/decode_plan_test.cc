#include "runtime/model/decode_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace spotd::model {
namespace {

TEST(DecodePlanTest, SortsRowsByChooserAndKeepsTheirOrder) {
  DecodePlan plan(8, 3, 16);
  const std::vector<Chooser> choosers = {Chooser::kQuest, Chooser::kDense, Chooser::kOracle,
                                         Chooser::kQuest, Chooser::kDense};
  plan.Make(choosers, std::vector<int32_t>{10, 20, 300, 40, 50}, false);
  const int32_t expected[] = {1, 4, 0, 3, 2};
  ASSERT_EQ(plan.rows(), 5);
  for (int32_t i = 0; i < 5; ++i) EXPECT_EQ(plan.caller_row(i), expected[i]);
  ASSERT_EQ(plan.ranges().size(), 3u);
  EXPECT_EQ(plan.ranges()[0].chooser, Chooser::kDense);
  EXPECT_EQ(plan.ranges()[0].groups, 1);
  EXPECT_EQ(plan.ranges()[1].chooser, Chooser::kQuest);
  EXPECT_EQ(plan.ranges()[1].begin, 2);
  EXPECT_EQ(plan.ranges()[1].rows, 2);
  EXPECT_EQ(plan.ranges()[1].groups, 3);
  EXPECT_EQ(plan.ranges()[2].begin, 4);
  EXPECT_TRUE(plan.uses(Chooser::kQuest));
  EXPECT_FALSE(plan.uses(Chooser::kSelector));
  EXPECT_EQ(plan.table_stride(), 20);  // 19 blocks
  EXPECT_EQ(plan.max_kv_len(), 320);
  EXPECT_EQ(plan.ChoiceOffset(2, 4), (2u * 5 + 4) * 3);
}

TEST(DecodePlanTest, TheSelectorMakesAsManyChoicesAsItHasGroups) {
  DecodePlan shared(8, 3, 16);
  DecodePlan apart(8, 3, 16, 3);
  const std::vector<Chooser> choosers = {Chooser::kSelector, Chooser::kOracle, Chooser::kHeadOracle,
                                         Chooser::kWindow};
  const std::vector<int32_t> lens(4, 100);
  shared.Make(choosers, lens, false);
  apart.Make(choosers, lens, false);
  const auto groups = [](const DecodePlan& plan) {
    std::vector<int32_t> all;
    for (const ChooserRange& range : plan.ranges()) all.push_back(range.groups);
    return all;  // kSelector, kWindow, kOracle, kHeadOracle
  };
  EXPECT_EQ(groups(shared), (std::vector<int32_t>{1, 1, 1, 3}));
  EXPECT_EQ(groups(apart), (std::vector<int32_t>{3, 1, 1, 3}));
}

TEST(DecodePlanTest, IsReusable) {
  DecodePlan plan(4, 2, 16);
  plan.Make(std::vector<Chooser>(4, Chooser::kQuest), std::vector<int32_t>(4, 1000), true);
  plan.Make(std::vector<Chooser>{Chooser::kDense}, std::vector<int32_t>{1}, false);
  EXPECT_EQ(plan.rows(), 1);
  EXPECT_EQ(plan.ranges().size(), 1u);
  EXPECT_FALSE(plan.uses(Chooser::kQuest));
  EXPECT_FALSE(plan.trace());
}

TEST(DecodePlanTest, KeyDiffersExactlyWhenTheStepDoes) {
  DecodePlan plan(4, 2, 16);
  const auto key = [&](std::vector<Chooser> choosers, std::vector<int32_t> lens, bool trace) {
    plan.Make(choosers, lens, trace);
    return plan.Key();
  };
  using enum Chooser;
  const uint64_t base = key({kDense, kQuest}, {100, 200}, false);
  EXPECT_EQ(key({kQuest, kDense}, {7, 199}, false), base);  // same shape
  std::set<uint64_t> keys = {base};
  keys.insert(key({kDense, kQuest}, {100, 200}, true));
  keys.insert(key({kDense, kQuest}, {100, 600}, false));
  keys.insert(key({kDense, kDense}, {100, 200}, false));
  keys.insert(key({kDense, kWindow}, {100, 200}, false));
  keys.insert(key({kDense, kQuest, kQuest}, {100, 200, 200}, false));
  keys.insert(key({kDense}, {200}, false));
  EXPECT_EQ(keys.size(), 7u);
}

TEST(DecodePlanTest, BucketsHoldTheirBlocksWithLittleWaste) {
  std::set<int32_t> sizes;
  for (int32_t blocks = 1; blocks <= 8192; ++blocks) {
    const int32_t bucket = BucketBlocks(blocks);
    EXPECT_GE(bucket, blocks);
    EXPECT_GE(bucket, 16);
    EXPECT_LE(bucket, std::max(16, blocks + blocks / 4));
    EXPECT_EQ(BucketBlocks(bucket), bucket);
    sizes.insert(bucket);
  }
  EXPECT_LE(sizes.size(), 40u);
}

TEST(DecodePlanTest, ChoosersFollowPolicyAndLength) {
  const auto chooser = [](PolicyKind kind, int32_t kv_len) {
    Policy policy;
    policy.kind = kind;
    policy.dense_below_tokens = 100;
    return ChooserFor(policy, kv_len);
  };
  EXPECT_EQ(chooser(PolicyKind::kQuest, 100), Chooser::kDense);
  EXPECT_EQ(chooser(PolicyKind::kQuest, 101), Chooser::kQuest);
  EXPECT_EQ(chooser(PolicyKind::kFull, 101), Chooser::kDense);
  EXPECT_EQ(chooser(PolicyKind::kDistilled, 101), Chooser::kSelector);
  EXPECT_EQ(chooser(PolicyKind::kTopK, 101), Chooser::kSelector);
  EXPECT_EQ(chooser(PolicyKind::kWindow, 101), Chooser::kWindow);
  EXPECT_EQ(chooser(PolicyKind::kOracle, 101), Chooser::kOracle);
  Policy oracle;
  oracle.kind = PolicyKind::kOracle;
  oracle.oracle_per_kv_head = true;
  EXPECT_EQ(ChooserFor(oracle, 5000), Chooser::kHeadOracle);
}

}  // namespace
}  // namespace spotd::model
