#include "kernels/core/softmax_state.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace spotd {
namespace {

struct Piece {
  SoftmaxState state = EmptySoftmaxState();
  float acc = 0;
};

Piece Merge(const Piece& a, const Piece& b) {
  const SoftmaxMerge merge = MergeSoftmax(a.state, b.state);
  return {merge.state, a.acc * merge.scale_a + b.acc * merge.scale_b};
}

TEST(MergeSoftmax, PiecesInAnyGroupingGiveTheSoftmax) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 20);
  std::vector<Piece> pieces;
  double weighted = 0, sum = 0;
  for (int i = 0; i < 40; ++i) {
    const float score = normal(random), value = normal(random);
    pieces.push_back({{score, 1.0f}, value});
    sum += std::exp(double{score});
    weighted += std::exp(double{score}) * value;
  }
  Piece left;
  for (const Piece& p : pieces) left = Merge(left, p);
  Piece first, second;
  for (size_t i = 0; i < 20; ++i) first = Merge(first, pieces[i]);
  for (size_t i = 20; i < 40; ++i) second = Merge(second, pieces[i]);
  for (const Piece& all : {left, Merge(first, second)}) {
    EXPECT_NEAR(all.acc * InverseSum(all.state), weighted / sum, 1e-4);
    EXPECT_NEAR(LogSumExp(all.state), std::log(sum), 1e-5);
  }
}

TEST(MergeSoftmax, EmptyPiecesWeighNothing) {
  const Piece some = {{3.0f, 2.0f}, 5.0f};
  for (const Piece& merged : {Merge(Piece(), some), Merge(some, Piece())}) {
    EXPECT_EQ(merged.state.max, 3.0f);
    EXPECT_EQ(merged.state.sum, 2.0f);
    EXPECT_EQ(merged.acc, 5.0f);
  }
  const Piece none = Merge(Piece(), Piece());
  EXPECT_EQ(LogSumExp(none.state), -INFINITY);
  EXPECT_EQ(none.acc * InverseSum(none.state), 0.0f);
}

TEST(MergeSoftmax, FarApartScoresDoNotOverflow) {
  const Piece merged = Merge({{3e38f, 1.0f}, 2.0f}, {{-3e38f, 1.0f}, 7.0f});
  EXPECT_EQ(merged.acc, 2.0f);
  EXPECT_EQ(merged.state.sum, 1.0f);
}

}  // namespace
}  // namespace spotd
