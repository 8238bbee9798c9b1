#include "kernels/core/dequantize.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace spotd {
namespace {

struct Golden {
  std::vector<char> encoded;
  std::vector<float> values;
};

Golden ReadGolden(DType type) {
  const std::string path = std::string(SPOTD_SOURCE_DIR) + "/tests/data/dequantize/" +
                           std::string(GetDTypeInfo(type).name) + ".bin";
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  uint32_t n = 0;
  if (bytes.size() >= sizeof(n)) std::memcpy(&n, bytes.data(), sizeof(n));
  const size_t encoded = RowBytes(type, n);
  if (n == 0 || bytes.size() != sizeof(n) + encoded + n * sizeof(float)) {
    ADD_FAILURE() << "missing or malformed " << path;
    return {};
  }
  Golden golden;
  golden.encoded.assign(bytes.begin() + sizeof(n), bytes.begin() + sizeof(n) + encoded);
  golden.values.resize(n);
  std::memcpy(golden.values.data(), bytes.data() + sizeof(n) + encoded, n * sizeof(float));
  return golden;
}

class DequantizeTest : public ::testing::TestWithParam<DType> {};

TEST_P(DequantizeTest, MatchesTheGoldenBitForBit) {
  const Golden golden = ReadGolden(GetParam());
  ASSERT_FALSE(golden.values.empty());
  std::vector<float> values(golden.values.size());
  DequantizeRow(GetParam(), golden.encoded.data(), values.data(),
                static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(golden.values[i]))
        << "weight " << i << ": " << values[i] << " instead of " << golden.values[i];
  }
}

TEST_P(DequantizeTest, ReadsUnalignedBytes) {
  const Golden golden = ReadGolden(GetParam());
  ASSERT_FALSE(golden.values.empty());
  std::vector<char> shifted(golden.encoded.size() + 1);
  std::memcpy(shifted.data() + 1, golden.encoded.data(), golden.encoded.size());
  std::vector<float> values(golden.values.size());
  DequantizeRow(GetParam(), shifted.data() + 1, values.data(), static_cast<int64_t>(values.size()));
  EXPECT_EQ(values, golden.values);
}

TEST_P(DequantizeTest, GroupsAgreeWithTheRow) {
  const Golden golden = ReadGolden(GetParam());
  if (!IsQuantized(GetParam())) GTEST_SKIP() << "not a quantised type";
  ASSERT_FALSE(golden.values.empty());
  for (size_t g = 0; g < golden.values.size() / kQuantGroup; ++g) {
    QuantGroup group;
    DecodeQuantGroup(GetParam(), golden.encoded.data(), static_cast<int64_t>(g), &group);
    for (int i = 0; i < kQuantGroup; ++i) {
      const float product = group.scale[i / 16] * static_cast<float>(group.q[i]);
      ASSERT_EQ(product + group.offset, golden.values[g * kQuantGroup + static_cast<size_t>(i)]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DequantizeTest,
                         ::testing::Values(DType::kF16, DType::kBf16, DType::kQ8_0, DType::kQ4_0,
                                           DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ4K,
                                           DType::kQ5K, DType::kQ6K),
                         [](const auto& type) {
                           return std::string(GetDTypeInfo(type.param).name);
                         });

TEST(DequantizeRow, CopiesFloats) {
  const std::vector<float> source = {1.5f, -0.0f, 3e-41f};
  std::vector<float> values(3);
  DequantizeRow(DType::kF32, source.data(), values.data(), 3);
  EXPECT_EQ(std::memcmp(values.data(), source.data(), 3 * sizeof(float)), 0);
}

}  // namespace
}  // namespace spotd
