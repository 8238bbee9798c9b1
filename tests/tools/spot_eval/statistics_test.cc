#include "tools/spot_eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace spotd::eval {
namespace {

TEST(StatisticsTest, StudentQuantilesAreTheTables) {
  EXPECT_NEAR(StudentT975(1), 12.706, 1e-3);
  EXPECT_NEAR(StudentT975(5), 2.571, 0.008);
  EXPECT_NEAR(StudentT975(15), 2.131, 0.002);
  EXPECT_NEAR(StudentT975(30), 2.042, 0.001);
  EXPECT_NEAR(StudentT975(1000), 1.962, 0.001);
}

TEST(StatisticsTest, IntervalOfKnownValues) {
  const std::vector<double> values = {1, 2, 3, 4};
  const Interval interval = MeanInterval(values);
  EXPECT_DOUBLE_EQ(interval.mean, 2.5);
  // Deviation 1.29099 over sqrt(4), times t of 3 degrees.
  EXPECT_NEAR(interval.half_width, 3.182 * 1.290994 / 2, 1e-4);
  EXPECT_EQ(interval.count, 4u);
}

TEST(StatisticsTest, FewValuesHaveNoInterval) {
  EXPECT_EQ(MeanInterval({}).count, 0u);
  const std::vector<double> one = {3};
  EXPECT_DOUBLE_EQ(MeanInterval(one).mean, 3);
  EXPECT_DOUBLE_EQ(MeanInterval(one).half_width, 0);
}

TEST(StatisticsTest, IntervalsHoldTheMeanAsOftenAsTheySay) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal(5, 2);
  int held = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<double> values(8);
    for (double& value : values) value = normal(random);
    const Interval interval = MeanInterval(values);
    held += std::abs(interval.mean - 5) <= interval.half_width ? 1 : 0;
  }
  EXPECT_NEAR(held / 2000.0, 0.95, 0.015);
}

}  // namespace
}  // namespace spotd::eval
