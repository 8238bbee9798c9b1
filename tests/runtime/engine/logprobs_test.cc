#include "runtime/engine/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace spotd::engine {
namespace {

TEST(TopLogprobsTest, LikeliestFirstTiesToTheLowerId) {
  const std::vector<float> logits = {1, 3, 2, 3};
  const auto top = TopLogprobs(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_EQ(top[1].token, 3);
  EXPECT_EQ(top[2].token, 2);
  const double sum = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0);
  EXPECT_NEAR(top[0].logprob, 3 - std::log(sum), 1e-6);
  EXPECT_NEAR(top[2].logprob, 2 - std::log(sum), 1e-6);
}

TEST(TopLogprobsTest, AllOfThemAddUpToOne) {
  const std::vector<float> logits = {-50, 400, 399.5f, 20};
  double sum = 0;
  for (const TokenLogprob& token : TopLogprobs(logits, 10)) sum += std::exp(token.logprob);
  EXPECT_NEAR(sum, 1, 1e-6);
}

TEST(TopLogprobsTest, LeavesOutWhatIsNotANumber) {
  const std::vector<float> logits = {std::numeric_limits<float>::quiet_NaN(), 1};
  const auto top = TopLogprobs(logits, 2);
  ASSERT_EQ(top.size(), 1u);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_NEAR(top[0].logprob, 0, 1e-6);
}

}  // namespace
}  // namespace spotd::engine
