#include "runtime/engine/sparsity_tally.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace spotd::engine {
namespace {

model::RowSparsity SparseStep(int64_t attended, float mass) {
  model::RowSparsity step;
  step.blocks_attended = attended;
  step.blocks_visible = 40;
  step.bytes_read = attended * 10;
  step.bytes_dense = 400;
  step.covered_mass = mass;
  step.selected_tokens = 64;
  step.dense = false;
  return step;
}

TEST(SparsityTallyTest, MeansAreOverSparseSteps) {
  SparsityTally tally({}, 16, 0);
  EXPECT_EQ(tally.trace(), nullptr);
  tally.Add({.blocks_attended = 40, .blocks_visible = 40, .bytes_read = 400, .bytes_dense = 400},
            320);
  tally.Add(SparseStep(10, 0.9f), 320);
  tally.Add(SparseStep(20, 0.7f), 321);
  const RequestSparsity result = tally.Result();
  EXPECT_EQ(result.steps, 3);
  EXPECT_EQ(result.dense_steps, 1);
  EXPECT_EQ(result.sum.blocks_attended, 70);
  EXPECT_EQ(result.sum.blocks_visible, 120);
  EXPECT_EQ(result.sum.bytes_read, 700);
  EXPECT_EQ(result.sum.bytes_dense, 1200);
  EXPECT_NEAR(result.mean_covered_mass, 0.8, 1e-6);
  EXPECT_NEAR(result.mean_selected_tokens, 64, 1e-6);
}

TEST(SparsityTallyTest, NothingDecodedIsDense) {
  const RequestSparsity result = SparsityTally({}, 16, 4).Result();
  EXPECT_EQ(result.steps, 0);
  EXPECT_EQ(result.mean_covered_mass, 1.0);
  EXPECT_TRUE(result.top_blocks.empty());
}

TEST(SparsityTallyTest, TopBlocksLeaveOutSinksAndRecency) {
  model::Policy policy;
  policy.sink_tokens = 20;     // blocks 0 and 1
  policy.recency_tokens = 17;  // of 160 tokens: from token 143 on, blocks 8 and 9
  SparsityTally tally(policy, 16, 2);
  ASSERT_NE(tally.trace(), nullptr);
  tally.trace()->blocks = {{0, 1, 3, 5, 8, 9}, {0, 1, 5, 8, 9}};
  tally.Add(SparseStep(11, 0.9f), 160);
  tally.trace()->blocks = {{0, 1, 4, 5, 8, 9}, {0, 1, 3, 8, 9}};
  tally.Add(SparseStep(11, 0.9f), 160);
  const auto top = tally.Result().top_blocks;
  ASSERT_EQ(top.size(), 2u);
  EXPECT_EQ(top[0].first, 5);
  EXPECT_FLOAT_EQ(top[0].second, 0.75f);
  EXPECT_EQ(top[1].first, 3);
  EXPECT_FLOAT_EQ(top[1].second, 0.5f);
}

TEST(SparsityTallyTest, TopBlocksLeaveOutWhatIsNear) {
  model::Policy policy;
  policy.sink_tokens = 16;
  policy.recency_tokens = 64;
  SparsityTally tally(policy, 16, 8);
  // Of 4096 tokens the last 256, from block 240 on; of 320 the reserved 64, from block 16 on.
  tally.trace()->blocks = {{0, 100, 239, 240, 251, 252, 255}};
  tally.Add(SparseStep(7, 0.9f), 4096);
  tally.trace()->blocks = {{0, 15, 16, 19}};
  tally.Add(SparseStep(4, 0.9f), 320);
  std::vector<int32_t> blocks;
  for (const auto& [block, share] : tally.Result().top_blocks) blocks.push_back(block);
  EXPECT_EQ(blocks, (std::vector<int32_t>{15, 100, 239}));
}

}  // namespace
}  // namespace spotd::engine
