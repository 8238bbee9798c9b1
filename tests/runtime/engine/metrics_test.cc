#include "runtime/engine/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

namespace spotd::engine {
namespace {

TEST(HistogramTest, ABoundBelongsToItsBucket) {
  const double bounds[] = {1, 2, 4};
  Histogram histogram(bounds);
  for (const double value : {0.5, 1.0, 1.5, 4.0, 4.1, 100.0}) histogram.Observe(value);
  EXPECT_EQ(histogram.bucket(0), 2u);
  EXPECT_EQ(histogram.bucket(1), 1u);
  EXPECT_EQ(histogram.bucket(2), 1u);
  EXPECT_EQ(histogram.bucket(3), 2u);
  EXPECT_DOUBLE_EQ(histogram.sum(), 111.1);
}

TEST(HistogramTest, CountsFromManyThreads) {
  const double bounds[] = {1};
  Histogram histogram(bounds);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 10000; ++n) histogram.Observe(0.5);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(histogram.bucket(0), 40000u);
  EXPECT_DOUBLE_EQ(histogram.sum(), 20000);
}

bool Contains(const Histogram& histogram, double bound) {
  const auto bounds = histogram.upper_bounds();
  return std::find(bounds.begin(), bounds.end(), bound) != bounds.end();
}

TEST(MetricsTest, BoundsAscendAndHoldThoseOfOtherEngines) {
  Metrics metrics;
  for (const Histogram* histogram :
       {&metrics.time_to_first_token, &metrics.inter_token_latency, &metrics.e2e_request_latency,
        &metrics.request_prompt_tokens, &metrics.by_policy[0].request_attended_fraction,
        &metrics.by_policy[0].request_covered_mass,
        &metrics.by_policy[0].request_selected_tokens}) {
    const auto bounds = histogram->upper_bounds();
    EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end()));
    EXPECT_EQ(std::adjacent_find(bounds.begin(), bounds.end()), bounds.end());
  }
  for (const double bound : {.001, .08, 2560.}) {
    EXPECT_TRUE(Contains(metrics.time_to_first_token, bound)) << bound;
  }
  for (const double bound : {.0005, .0075, .01, .025, 80.}) {
    EXPECT_TRUE(Contains(metrics.inter_token_latency, bound)) << bound;
  }
  for (const double bound : {.01, .2, .3, .8, 7680.}) {
    EXPECT_TRUE(Contains(metrics.e2e_request_latency, bound)) << bound;
  }
}

}  // namespace
}  // namespace spotd::engine
