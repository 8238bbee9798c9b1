#include "kernels/cpu/weight.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/dequantize.h"
#include "kernels/cpu/weight_memory.h"
#include "tests/kernels/random_weights.h"

namespace spotd::kernels {
namespace {

using ::testing::HasSubstr;

class WeightTest : public ::testing::TestWithParam<DType> {};

TEST_P(WeightTest, PackingLosesNothing) {
  for (const int64_t rows : {1, 15, 16, 17, 40}) {
    for (const int64_t blocks : {1, 2, 5}) {
      const int64_t cols = blocks * GetDTypeInfo(GetParam()).block_elements;
      const std::vector<uint8_t> bytes = RandomMatrix(GetParam(), rows, cols, 1);
      const auto weight = MakeCpuWeight({"w", rows, cols, GetParam(), bytes.data()});
      ASSERT_TRUE(weight.ok()) << weight.status();
      std::vector<float> expected(static_cast<size_t>(cols)), row(expected);
      for (int64_t r = 0; r < rows; ++r) {
        DequantizeRow(GetParam(),
                      bytes.data() + static_cast<size_t>(r) * RowBytes(GetParam(), cols),
                      expected.data(), cols);
        static_cast<const CpuWeight&>(**weight).DecodeRow(r, row.data());
        ASSERT_EQ(row, expected) << "row " << r << " of " << rows << " x " << cols;
      }
    }
  }
}

TEST_P(WeightTest, RowOrderMovesRows) {
  constexpr int64_t kRows = 37, kCols = 256;
  const std::vector<uint8_t> bytes = RandomMatrix(GetParam(), kRows, kCols, 2);
  std::vector<int32_t> order(kRows);
  for (int32_t r = 0; r < kRows; ++r) order[static_cast<size_t>(r)] = (r * 5 + 3) % kRows;
  const auto weight = MakeCpuWeight({"w", kRows, kCols, GetParam(), bytes.data(), order.data()});
  ASSERT_TRUE(weight.ok()) << weight.status();
  std::vector<float> expected(kCols), row(kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    const auto from = static_cast<size_t>(order[static_cast<size_t>(r)]);
    DequantizeRow(GetParam(), bytes.data() + from * RowBytes(GetParam(), kCols), expected.data(),
                  kCols);
    static_cast<const CpuWeight&>(**weight).DecodeRow(r, row.data());
    ASSERT_EQ(row, expected) << "row " << r;
  }
}

TEST_P(WeightTest, TakesTheBytesOfTheCheckpoint) {
  constexpr int64_t kRows = 256, kCols = 2048;
  const std::vector<uint8_t> bytes = RandomMatrix(GetParam(), kRows, kCols, 3);
  const auto weight = MakeCpuWeight({"w", kRows, kCols, GetParam(), bytes.data()});
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ((*weight)->rows(), kRows);
  EXPECT_EQ((*weight)->cols(), kCols);
  EXPECT_GE((*weight)->bytes(), bytes.size());
  EXPECT_LE(static_cast<double>((*weight)->bytes()), 1.03 * static_cast<double>(bytes.size()));
}

INSTANTIATE_TEST_SUITE_P(Types, WeightTest,
                         ::testing::Values(DType::kF32, DType::kF16, DType::kBf16, DType::kQ8_0,
                                           DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                           DType::kQ4K, DType::kQ5K, DType::kQ6K),
                         [](const auto& type) {
                           return std::string(GetDTypeInfo(type.param).name);
                         });

void ExpectRefused(const WeightSource& source, const std::string& why) {
  const auto weight = MakeCpuWeight(source);
  ASSERT_FALSE(weight.ok());
  EXPECT_EQ(weight.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(weight.status().message());
  EXPECT_THAT(message, HasSubstr("blk.3.attn_q"));
  EXPECT_THAT(message, HasSubstr(why));
}

TEST(MakeCpuWeight, RefusesShapesAndNamesTheTensor) {
  const std::vector<uint8_t> bytes(4096);
  const auto source = [&](int64_t rows, int64_t cols, DType type) {
    return WeightSource{"blk.3.attn_q", rows, cols, type, bytes.data()};
  };
  ExpectRefused(source(2, 48, DType::kQ4_1), "whole blocks of Q4_1");
  ExpectRefused(source(2, 32, DType::kQ6K), "whole blocks of Q6_K");
  ExpectRefused(source(0, 32, DType::kF32), "empty");
  ExpectRefused(source(2, 0, DType::kF32), "empty");
  ExpectRefused(source(-1, 32, DType::kF32), "empty");
  ExpectRefused({"blk.3.attn_q", 2, 32, DType::kF32, nullptr}, "empty");
}

TEST(MakeCpuWeight, RefusesRowsOutsideTheMatrix) {
  const std::vector<uint8_t> bytes(4096);
  for (const int32_t bad : {-1, 2}) {
    const int32_t order[] = {0, bad};
    ExpectRefused({"blk.3.attn_q", 2, 32, DType::kF32, bytes.data(), order},
                  "row 1 is taken from row");
  }
}

TEST(AllocateWeightMemory, GivesZeroedAlignedRangesThatDoNotOverlap) {
  std::vector<std::shared_ptr<uint8_t>> ranges;
  constexpr size_t kBytes = 100001;
  for (int i = 0; i < 700; ++i) {  // several mappings
    ranges.push_back(AllocateWeightMemory(kBytes));
    uint8_t* const p = ranges.back().get();
    ASSERT_NE(p, nullptr);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    ASSERT_EQ(std::count(p, p + kBytes, 0), static_cast<int64_t>(kBytes));
    std::fill_n(p, kBytes, static_cast<uint8_t>(1 + i % 250));
    if (i % 3 == 0) ranges.erase(ranges.begin());
  }
  const size_t held = ranges.size();
  for (size_t i = 0; i < held; ++i) {
    const uint8_t value = static_cast<uint8_t>(1 + (700 - held + i) % 250);
    ASSERT_EQ(std::count(ranges[i].get(), ranges[i].get() + kBytes, value),
              static_cast<int64_t>(kBytes));
  }
}

TEST(AllocateWeightMemory, IsNullWhenTheSystemHasNotThatMuch) {
  EXPECT_EQ(AllocateWeightMemory(size_t{1} << 60), nullptr);
}

}  // namespace
}  // namespace spotd::kernels
