#include "kernels/core/selector_key.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace spotd::kernels {
namespace {

std::vector<float> RoundTrip(SelectorKeyFormat format, const std::vector<float>& x) {
  const auto dim = static_cast<int>(x.size());
  const size_t bytes = SelectorKeyBytes(format, dim);
  std::vector<uint16_t> key(bytes / 2 + 1, 0xabab);
  EncodeSelectorKey(format, x.data(), dim, key.data());
  const auto* const end = reinterpret_cast<const uint8_t*>(key.data()) + bytes;
  EXPECT_EQ(*end, 0xab) << "wrote beyond the key";
  std::vector<float> y(x.size());
  DecodeSelectorKey(format, key.data(), dim, y.data());
  return y;
}

std::vector<float> Normal(size_t n, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

float LargestIn(const std::vector<float>& x, size_t begin, size_t n) {
  return LargestMagnitude(x.data() + begin, static_cast<int>(n));
}

TEST(SelectorKey, Sizes) {
  static_assert(SelectorKeyBytes(SelectorKeyFormat::kInt4, 128) == 72);
  static_assert(SelectorKeyBytes(SelectorKeyFormat::kFp4, 128) == 72);
  static_assert(SelectorKeyBytes(SelectorKeyFormat::kInt4, 64) == 36);
  static_assert(SelectorKeyBytes(SelectorKeyFormat::kBf16, 128) == 256);
  static_assert(SelectorKeyBytes(SelectorKeyFormat::kNone, 128) == 0);
}

TEST(SelectorKey, Bf16RoundsToNearest) {
  const std::vector<float> x = Normal(128, 1, 1);
  const std::vector<float> y = RoundTrip(SelectorKeyFormat::kBf16, x);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], std::fabs(x[i]) * 0x1p-8f);
}

// Half a step of largest / 7, a little more for the rounding of the scale.
TEST(SelectorKey, Int4IsWithinHalfAStep) {
  for (const float scale : {1e-3f, 1.0f, 300.0f}) {
    const std::vector<float> x = Normal(256, scale, 2);
    const std::vector<float> y = RoundTrip(SelectorKeyFormat::kInt4, x);
    for (size_t i = 0; i < x.size(); ++i) {
      const float step = LargestIn(x, i / 32 * 32, 32) / 7;
      EXPECT_LE(std::fabs(y[i] - x[i]), step * 0.505f) << i;
    }
  }
}

// e2m1 steps are a sixth of the largest value at the top and a twelfth of it near zero; the e4m3
// scale may fall short of the largest value by a sixteenth.
TEST(SelectorKey, Fp4IsWithinHalfAStep) {
  for (const float scale : {0.3f, 1.0f, 100.0f}) {
    const std::vector<float> x = Normal(256, scale, 3);
    const std::vector<float> y = RoundTrip(SelectorKeyFormat::kFp4, x);
    for (size_t i = 0; i < x.size(); ++i) {
      const float largest = LargestIn(x, i / 16 * 16, 16);
      const float step = std::max(std::fabs(x[i]) / 2, largest / 12);
      EXPECT_LE(std::fabs(y[i] - x[i]), 0.5f * step * 1.0625f + 0.0625f * std::fabs(x[i])) << i;
    }
  }
}

TEST(SelectorKey, TypicalErrorIsSmall) {
  const std::vector<float> x = Normal(1 << 14, 1, 4);
  for (const auto& [format, limit] :
       {std::pair{SelectorKeyFormat::kInt4, 0.10}, {SelectorKeyFormat::kFp4, 0.12}}) {
    double error = 0, power = 0;
    const std::vector<float> y = RoundTrip(format, x);
    for (size_t i = 0; i < x.size(); ++i) {
      error += (x[i] - y[i]) * (x[i] - y[i]);
      power += x[i] * x[i];
    }
    EXPECT_LT(std::sqrt(error / power), limit);
  }
}

TEST(SelectorKey, ZerosStayZeros) {
  for (const auto format : {SelectorKeyFormat::kInt4, SelectorKeyFormat::kFp4}) {
    EXPECT_EQ(RoundTrip(format, std::vector<float>(64, 0.0f)), std::vector<float>(64, 0.0f));
  }
}

TEST(SelectorKey, ExtremesStayFinite) {
  for (const auto format : {SelectorKeyFormat::kInt4, SelectorKeyFormat::kFp4}) {
    for (const float value : {1e-30f, 1e30f, -1e30f}) {
      std::vector<float> x(32, value);
      x[1] = -value;
      for (const float y : RoundTrip(format, x)) EXPECT_TRUE(std::isfinite(y));
    }
  }
}

TEST(SelectorKey, ValuesOfTheFormatsSurvive) {
  const float fp4[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.5f, -1, -1.5f, -2, -3, -4, -6, 0};
  const std::vector<float> x(std::begin(fp4), std::end(fp4));
  EXPECT_EQ(RoundTrip(SelectorKeyFormat::kFp4, x), x);
  std::vector<float> ints;
  for (int i = 0; i < 32; ++i) ints.push_back(static_cast<float>(i % 15 - 7));
  EXPECT_EQ(RoundTrip(SelectorKeyFormat::kInt4, ints), ints);
}

TEST(Fp4, CodesAreNearestWithTiesToEven) {
  const uint8_t one = ToE4m3(1.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(0.25f, one), one), 0.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(0.75f, one), one), 1.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(1.75f, one), one), 2.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(2.5f, one), one), 2.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(3.5f, one), one), 4.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(5.0f, one), one), 4.0f);
  EXPECT_EQ(Fp4Value(Fp4Code(-9.0f, one), one), -6.0f);
}

TEST(E4m3, EveryValueSurvivesAndOthersRoundToNearest) {
  for (int bits = 0; bits < 0x7f; ++bits) {
    EXPECT_EQ(ToE4m3(E4m3Value(static_cast<uint8_t>(bits))), bits);
    if (bits == 0x7e) continue;
    const float here = E4m3Value(static_cast<uint8_t>(bits));
    const float next = E4m3Value(static_cast<uint8_t>(bits + 1));
    EXPECT_GT(next, here);
    const float middle = (here + next) / 2;
    EXPECT_EQ(ToE4m3(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(ToE4m3(middle), bits + bits % 2);
    EXPECT_EQ(ToE4m3(std::nextafter(middle, 1e9f)), bits + 1);
  }
  EXPECT_EQ(E4m3Value(0x7e), 448.0f);
  EXPECT_EQ(ToE4m3(1e30f), 0x7e);
}

}  // namespace
}  // namespace spotd::kernels
