#include "runtime/engine/token_history.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/engine/request.h"

namespace spotd::engine {
namespace {

TEST(TokenHistoryTest, CountsPromptAndOutputApart) {
  Sampling sampling;
  sampling.params.repetition_penalty = 1.2f;
  TokenHistory history(sampling.params);
  history.AddPrompt(std::vector<int32_t>{5, 6, 5});
  history.AddGenerated(6);
  history.AddGenerated(7);
  const auto adjustments = history.adjustments();
  ASSERT_EQ(adjustments.size(), 3u);
  const auto check = [&](size_t i, int token, int seen, int generated) {
    EXPECT_EQ(adjustments[i].token, token);
    EXPECT_EQ(adjustments[i].seen, seen);
    EXPECT_EQ(adjustments[i].generated, generated);
  };
  check(0, 5, 2, 0);
  check(1, 6, 2, 1);
  check(2, 7, 1, 1);
}

TEST(TokenHistoryTest, KeepsOnlyWhatAPenaltyNeeds) {
  Sampling sampling;
  TokenHistory none(sampling.params);
  none.AddPrompt(std::vector<int32_t>{1, 2});
  none.AddGenerated(3);
  EXPECT_TRUE(none.adjustments().empty());
  sampling.params.frequency_penalty = 0.5f;
  TokenHistory output_only(sampling.params);
  output_only.AddPrompt(std::vector<int32_t>{1, 2});
  output_only.AddGenerated(3);
  ASSERT_EQ(output_only.adjustments().size(), 1u);
  EXPECT_EQ(output_only.adjustments()[0].token, 3);
}

}  // namespace
}  // namespace spotd::engine
