#include "runtime/engine/selection_record.h"

#include <gtest/gtest.h>

namespace spotd::engine {
namespace {

TEST(SelectionRecordTest, KeepsRunsOfBlocks) {
  SelectionRecord record(std::make_shared<RecordBudget>(1 << 20));
  record.Add(40, 7, false, {{{0, 1, 2, 5}, {3}}});
  record.Add(41, 8, true, {{{0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}}});
  ASSERT_EQ(record.steps().size(), 2u);
  const SelectionRecord::Step& step = record.steps()[0];
  EXPECT_EQ(step.position, 40);
  EXPECT_EQ(step.token, 7);
  EXPECT_FALSE(step.dense);
  ASSERT_EQ(step.layers.size(), 2u);
  ASSERT_EQ(step.layers[0].size(), 2u);
  EXPECT_EQ(step.layers[0][0].first, 0);
  EXPECT_EQ(step.layers[0][0].count, 3);
  EXPECT_EQ(step.layers[0][1].first, 5);
  EXPECT_EQ(step.layers[1][0].count, 1);
  EXPECT_TRUE(record.steps()[1].dense);
  EXPECT_TRUE(record.steps()[1].layers.empty()) << "all of them: not worth listing";
  EXPECT_EQ(record.dropped(), 0);
}

TEST(SelectionRecordTest, AllRecordsTogetherAreBounded) {
  const auto budget = std::make_shared<RecordBudget>(1000);
  const model::SelectionTrace trace = {{{1, 3, 5}}};
  {
    SelectionRecord first(budget);
    for (int i = 0; i < 100; ++i) first.Add(i, i, false, trace);
    EXPECT_GT(first.steps().size(), 0u);
    EXPECT_LT(first.steps().size(), 20u);
    EXPECT_EQ(first.steps().size() + static_cast<size_t>(first.dropped()), 100u);
    SelectionRecord second(budget);
    for (int i = 0; i < 100; ++i) second.Add(i, i, false, trace);
    EXPECT_LE(second.steps().size(), 1u);
  }
  SelectionRecord third(budget);
  third.Add(0, 0, false, trace);
  EXPECT_EQ(third.steps().size(), 1u) << "what a record held comes back with its end";
}

}  // namespace
}  // namespace spotd::engine
