#include "kernels/core/philox.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace spotd {
namespace {

// Known answers of the generator's authors (Random123, kat_vectors: philox4x32 10).
TEST(Philox, KnownAnswers) {
  const Philox4 zeros = PhiloxBlock(0, 0, 0);
  EXPECT_EQ(zeros.word[0], 0x6627e8d5u);
  EXPECT_EQ(zeros.word[1], 0xe169c58du);
  EXPECT_EQ(zeros.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zeros.word[3], 0x9b00dbd8u);
  const Philox4 ones = PhiloxBlock(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0});
  EXPECT_EQ(ones.word[0], 0x408f276du);
  EXPECT_EQ(ones.word[1], 0x41c83b0eu);
  EXPECT_EQ(ones.word[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.word[3], 0x6d5451fdu);
  const Philox4 pi = PhiloxBlock(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x0370734413198a2eu);
  EXPECT_EQ(pi.word[0], 0xd16cfe09u);
  EXPECT_EQ(pi.word[1], 0x94fdccebu);
  EXPECT_EQ(pi.word[2], 0x5001e420u);
  EXPECT_EQ(pi.word[3], 0x24126ea1u);
}

TEST(PhiloxUniform, IsUniformInTheUnitInterval) {
  int bins[16] = {};
  for (uint64_t draw = 0; draw < 16000; ++draw) {
    const float u = PhiloxUniform(42, draw);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    ++bins[static_cast<int>(u * 16)];
  }
  double chi = 0;
  for (const int n : bins) chi += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(chi, 37.7);  // 15 degrees of freedom, one in a thousand
}

TEST(PhiloxUniform, DependsOnSeedAndDraw) {
  EXPECT_NE(PhiloxUniform(1, 0), PhiloxUniform(2, 0));
  EXPECT_NE(PhiloxUniform(1, 0), PhiloxUniform(1, 1));
  EXPECT_NE(PhiloxUniform(1, 0), PhiloxUniform(uint64_t{1} << 32 | 1, 0));
}

}  // namespace
}  // namespace spotd
