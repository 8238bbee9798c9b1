#include "runtime/distill/schedule.h"

#include <algorithm>
#include <set>

#include "gtest/gtest.h"

namespace spotd::distill {
namespace {

TEST(LearningRateTest, WarmsUpThenFollowsACosine) {
  const LearningRate rate{1.0, 10, 110, 0.05};
  EXPECT_DOUBLE_EQ(rate.At(0), 0.1);
  EXPECT_DOUBLE_EQ(rate.At(9), 1.0);
  EXPECT_DOUBLE_EQ(rate.At(10), 1.0);
  EXPECT_NEAR(rate.At(60), 0.525, 1e-12);
  EXPECT_NEAR(rate.At(110), 0.05, 1e-12);
  EXPECT_NEAR(rate.At(1000), 0.05, 1e-12);
}

TEST(PositionSkipTest, OneCutSkipsOnceAndStaysInside) {
  const PositionSkip skip{0.75, 8192, 3, 1, 1.0};
  int skipped = 0;
  for (int64_t index = 0; index < 400; ++index) {
    const std::vector<int32_t> positions = skip.Positions(1024, index);
    ASSERT_EQ(positions.size(), 1024u);
    EXPECT_EQ(positions.front(), 0);
    EXPECT_LT(positions.back(), 8192);
    int gaps = 0;
    for (size_t i = 1; i < positions.size(); ++i) {
      ASSERT_GT(positions[i], positions[i - 1]);
      gaps += positions[i] != positions[i - 1] + 1;
    }
    EXPECT_LE(gaps, 1);
    skipped += gaps;
    EXPECT_EQ(positions, skip.Positions(1024, index));
  }
  EXPECT_NEAR(skipped, 300, 40);
}

// Gaps of a sequence's positions.
int Gaps(const std::vector<int32_t>& positions) {
  int gaps = 0;
  for (size_t i = 1; i < positions.size(); ++i) gaps += positions[i] != positions[i - 1] + 1;
  return gaps;
}

TEST(PositionSkipTest, ManyCutsShareOneGap) {
  const PositionSkip skip{1.0, 8192, 3, 16, 1.0};
  std::set<int> numbers;
  double reach = 0;
  for (int64_t index = 0; index < 400; ++index) {
    const std::vector<int32_t> positions = skip.Positions(1024, index);
    EXPECT_EQ(positions.front(), 0);
    EXPECT_LT(positions.back(), 8192);
    EXPECT_TRUE(std::adjacent_find(positions.begin(), positions.end(), std::greater_equal<>()) ==
                positions.end());
    EXPECT_LE(Gaps(positions), 16);
    numbers.insert(Gaps(positions));
    reach += positions.back() / 400.0;
  }
  EXPECT_GT(numbers.size(), 12u);  // from one cut to sixteen
  EXPECT_NEAR(reach, 1023 + (8192 - 1024) / 2.0, 500);
}

TEST(PositionSkipTest, WhereTheDrawSaysOneCutItIsTheSame) {
  const PositionSkip skip{1.0, 8192, 3, 1, 1.0};
  const PositionSkip many{1.0, 8192, 3, 8, 1.0};
  int same = 0;
  for (int64_t index = 0; index < 200; ++index) {
    const std::vector<int32_t> one = skip.Positions(1024, index);
    EXPECT_LE(Gaps(one), 1);
    same += many.Positions(1024, index) == one;
  }
  EXPECT_NEAR(same, 25, 15);  // where the draw of one to eight says one
}

TEST(PositionSkipTest, ASmallPowerFavoursLongGaps) {
  PositionSkip skip{1.0, 8192, 3, 1, 0.5};
  double reach = 0;
  for (int64_t index = 0; index < 400; ++index) {
    const int32_t last = skip.Positions(1024, index).back();
    EXPECT_LT(last, 8192);
    reach += last / 400.0;
  }
  EXPECT_NEAR(reach, 1023 + (8192 - 1024) * 2.0 / 3, 400);
  skip.gap_power = 0;  // all the room there is
  EXPECT_EQ(skip.Positions(1024, 7).back(), 8191);
}

TEST(PositionSkipTest, NoRoomNoSkip) {
  const PositionSkip skip{1.0, 1024, 3};
  EXPECT_EQ(skip.Positions(1024, 5).back(), 1023);
}

TEST(SampleQueriesTest, DistinctAscendingAndInRange) {
  std::set<std::vector<int32_t>> seen;
  for (int64_t index = 0; index < 50; ++index) {
    const std::vector<int32_t> rows = SampleQueries(300, 1024, 128, 9, index);
    ASSERT_EQ(rows.size(), 128u);
    EXPECT_GE(rows.front(), 300);
    EXPECT_LT(rows.back(), 1024);
    EXPECT_TRUE(std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) == rows.end());
    seen.insert(rows);
  }
  EXPECT_EQ(seen.size(), 50u);
  EXPECT_EQ(SampleQueries(10, 14, 128, 9, 0), (std::vector<int32_t>{10, 11, 12, 13}));
}

}  // namespace
}  // namespace spotd::distill
