#include "tools/spot_eval/distribution.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace spotd::eval {
namespace {

TEST(DistributionTest, KnownDivergence) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), as logits with different offsets.
  const std::vector<float> p = {std::log(2.0f) + 3, 3, 3};
  const std::vector<float> q = {-7, std::log(2.0f) - 7, -7};
  const Reference reference(p);
  const auto c = reference.Compare(q, 1);
  EXPECT_NEAR(c.kl, 0.25 * std::log(2.0), 1e-6);
  EXPECT_NEAR(c.nll, std::log(2.0), 1e-6);
  EXPECT_NEAR(reference.Nll(0), std::log(2.0), 1e-6);
  EXPECT_FALSE(c.same_top);
}

TEST(DistributionTest, NothingDivergesFromItself) {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i)) * 8;
  const auto c = Reference(logits).Compare(logits, 7);
  EXPECT_NEAR(c.kl, 0, 1e-6);
  EXPECT_TRUE(c.same_top);
}

TEST(DistributionTest, WhatIsNoNumberIsNoPerfectAgreement) {
  const std::vector<float> p = {1, 2, 3};
  const std::vector<float> q = {1, std::nanf(""), 3};
  EXPECT_TRUE(std::isnan(Reference(p).Compare(q, 0).kl));
  EXPECT_TRUE(std::isnan(Reference(q).Compare(p, 0).kl));
}

TEST(DistributionTest, LargeLogitsDoNotOverflow) {
  const std::vector<float> p = {1000, 0};
  const std::vector<float> q = {0, 1000};
  const auto c = Reference(p).Compare(q, 0);
  EXPECT_NEAR(c.kl, 1000, 1e-3);
  EXPECT_NEAR(c.nll, 1000, 1e-3);
}

}  // namespace
}  // namespace spotd::eval
