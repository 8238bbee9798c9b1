#define HWY_WANT_AVX3_DL
#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "kernels/core/dequantize.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/weight.h"
#include "tests/kernels/random_weights.h"

namespace spotd::kernels {
namespace {

constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBf16, DType::kQ8_0,
                            DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                            DType::kQ4K,  DType::kQ5K,  DType::kQ6K};

// Makes the kernels run on one of Highway's targets while it lives.
class ForcedTarget {
 public:
  explicit ForcedTarget(int64_t target) { Set(target); }
  ~ForcedTarget() { Set(0); }
  ForcedTarget(const ForcedTarget&) = delete;
  ForcedTarget& operator=(const ForcedTarget&) = delete;

 private:
  static void Set(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

struct Matrix {
  int64_t rows;
  int64_t cols;
  DType type;
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // [rows, cols]
};

Matrix MakeMatrix(DType type, int64_t rows, int64_t cols, uint64_t seed) {
  Matrix matrix = {rows, cols, type, RandomMatrix(type, rows, cols, seed), {}};
  matrix.values.resize(static_cast<size_t>(rows * cols));
  DequantizeRow(type, matrix.bytes.data(), matrix.values.data(), rows * cols);
  return matrix;
}

std::unique_ptr<Weight> Pack(const Matrix& matrix) {
  return MakeCpuWeight({"test", matrix.rows, matrix.cols, matrix.type, matrix.bytes.data()})
      .value();
}

// What the kernel's activations are: x itself, or x rounded to int8 in groups of 32.
std::vector<double> Activations(const std::vector<float>& x, bool quantized) {
  std::vector<double> rounded(x.begin(), x.end());
  if (!quantized) return rounded;
  for (size_t g = 0; g < x.size(); g += kQuantGroup) {
    float max = 0;
    for (size_t i = g; i < g + kQuantGroup; ++i) max = std::max(max, std::abs(x[i]));
    const float inverse = max == 0 ? 0 : 127 / max;
    for (size_t i = g; i < g + kQuantGroup; ++i) {
      rounded[i] = std::nearbyint(x[i] * inverse) * static_cast<double>(max * (1.0f / 127));
    }
  }
  return rounded;
}

// Compares y = x W^T with the double-precision product, relative to the sum of the products'
// magnitudes.
void ExpectProduct(const Matrix& matrix, const std::vector<double>& x, const std::vector<float>& y,
                   double tolerance) {
  const auto rows = x.size() / static_cast<size_t>(matrix.cols);
  const auto cols = static_cast<size_t>(matrix.cols);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < static_cast<size_t>(matrix.rows); ++j) {
      double sum = 0, magnitude = 1e-6;
      for (size_t k = 0; k < cols; ++k) {
        const double product = x[i * cols + k] * static_cast<double>(matrix.values[j * cols + k]);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(y[i * static_cast<size_t>(matrix.rows) + j], sum, tolerance * magnitude)
          << "row " << i << ", output " << j;
    }
  }
}

std::vector<float> Multiply(const Weight& weight, const std::vector<float>& x, int threads = 1) {
  ThreadPool pool(threads);
  LinearScratch scratch;
  const auto rows = static_cast<int64_t>(x.size()) / weight.cols();
  std::vector<float> y(static_cast<size_t>(rows * weight.rows()), NAN);
  LinearArgs args = {
      x.data(), static_cast<int32_t>(rows), static_cast<int32_t>(weight.cols()), 1, {}};
  args.outputs[0] = {&weight, nullptr, y.data(), false};
  CpuLinear(args, pool, scratch);
  return y;
}

using TypeAndTarget = std::tuple<DType, int64_t>;

class LinearTest : public ::testing::TestWithParam<TypeAndTarget> {
 protected:
  DType type() const { return std::get<0>(GetParam()); }
  bool quantized() const { return IsQuantized(type()); }
  // Columns of about `wanted` that the type allows.
  int64_t Cols(int64_t wanted) const {
    const int64_t block = GetDTypeInfo(type()).block_elements;
    return (wanted + block - 1) / block * block;
  }
  void SetUp() override {
    const int64_t target = std::get<1>(GetParam());
    hwy::SetSupportedTargetsForTest(0);
    if ((hwy::SupportedTargets() & target) == 0) GTEST_SKIP() << "not on this processor";
    target_ = std::make_unique<ForcedTarget>(target);
  }

 private:
  std::unique_ptr<ForcedTarget> target_;
};

TEST_P(LinearTest, MatchesTheDoublePrecisionProduct) {
  for (const auto& [out, in] :
       {std::pair<int64_t, int64_t>{1, 32}, {7, 96}, {16, 33}, {17, 577}, {48, 1536}, {95, 256}}) {
    const Matrix matrix = MakeMatrix(type(), out, Cols(in), 1);
    const std::unique_ptr<Weight> weight = Pack(matrix);
    for (const size_t rows : {1, 2, 3, 8, 13}) {
      const std::vector<float> x = RandomFloats(rows * static_cast<size_t>(matrix.cols), rows);
      ExpectProduct(matrix, Activations(x, quantized()), Multiply(*weight, x), 2e-6);
    }
  }
}

// What rounding the activations to int8 costs: well under a percent of the magnitudes added up.
TEST_P(LinearTest, IsCloseToTheProductOfTheTrueActivations) {
  const Matrix matrix = MakeMatrix(type(), 33, Cols(1024), 2);
  const std::vector<float> x = RandomFloats(3 * static_cast<size_t>(matrix.cols), 3);
  ExpectProduct(matrix, Activations(x, false), Multiply(*Pack(matrix), x),
                quantized() ? 2e-3 : 2e-6);
}

TEST_P(LinearTest, ARowDoesNotDependOnTheOthersOrOnTheThreads) {
  const Matrix matrix = MakeMatrix(type(), 71, Cols(320), 4);
  const std::unique_ptr<Weight> weight = Pack(matrix);
  const auto in = static_cast<size_t>(matrix.cols), out = static_cast<size_t>(matrix.rows);
  constexpr size_t kRows = 530;  // more than one chunk of activations
  const std::vector<float> x = RandomFloats(kRows * in, 5);
  const std::vector<float> all = Multiply(*weight, x, 3);
  for (const size_t rows : {1, 2, 3, 5, 8, 9, 31, 64, 256, 513}) {
    const size_t first = kRows - rows;
    const std::vector<float> part_x(x.begin() + static_cast<int64_t>(first * in), x.end());
    const std::vector<float> part = Multiply(*weight, part_x, 1 + static_cast<int>(rows % 2));
    ASSERT_TRUE(
        std::equal(part.begin(), part.end(), all.begin() + static_cast<int64_t>(first * out)))
        << rows << " rows";
  }
}

TEST_P(LinearTest, ExtremeActivationsStayExact) {
  const Matrix matrix = MakeMatrix(type(), 16, Cols(64), 6);
  const auto cols = static_cast<size_t>(matrix.cols);
  std::vector<float> x(2 * cols, 0);  // the second row stays zero
  for (size_t k = 0; k < cols; ++k) x[k] = k % 3 == 0 ? -1.0f : 1.0f;
  const std::vector<float> y = Multiply(*Pack(matrix), x);
  ExpectProduct(matrix, Activations(x, quantized()), y, 2e-6);
  for (size_t j = 16; j < 32; ++j) EXPECT_EQ(y[j], 0);
}

std::string TestName(const ::testing::TestParamInfo<TypeAndTarget>& info) {
  return std::string(GetDTypeInfo(std::get<0>(info.param)).name) + "_" +
         hwy::TargetName(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(TypesAndTargets, LinearTest,
                         ::testing::Combine(::testing::ValuesIn(kTypes),
                                            ::testing::Values(HWY_AVX3_DL, HWY_AVX3, HWY_AVX2,
                                                              HWY_SSE4, HWY_SSSE3)),
                         TestName);

TEST(Linear, SeveralOutputsOfMixedTypesWithBiasAndAccumulation) {
  constexpr size_t kRows = 5, kCols = 256;
  const std::vector<float> x = RandomFloats(kRows * kCols, 7);
  std::vector<Matrix> matrices;
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<std::vector<float>> y, biases;
  LinearArgs args = {x.data(), kRows, kCols, 4, {}};
  const DType types[] = {DType::kQ4K, DType::kBf16, DType::kQ8_0, DType::kQ6K};
  for (size_t i = 0; i < 4; ++i) {
    const auto out = static_cast<int64_t>(20 + 31 * i);
    matrices.push_back(MakeMatrix(types[i], out, kCols, i));
    weights.push_back(Pack(matrices[i]));
    y.push_back(RandomFloats(kRows * static_cast<size_t>(out), 10 + i));
    biases.push_back(RandomFloats(static_cast<size_t>(out), 20 + i));
  }
  const std::vector<std::vector<float>> before = y;
  for (size_t i = 0; i < 4; ++i) {
    args.outputs[i] = {weights[i].get(), i % 2 == 0 ? biases[i].data() : nullptr, y[i].data(),
                       i >= 2};
  }
  ThreadPool pool(2);
  LinearScratch scratch;
  CpuLinear(args, pool, scratch);
  for (size_t i = 0; i < 4; ++i) {
    const std::vector<float> product = Multiply(*weights[i], x);
    ASSERT_EQ(product.size(), y[i].size());
    for (size_t j = 0; j < product.size(); ++j) {
      const size_t out = j % static_cast<size_t>(matrices[i].rows);
      float expected = i % 2 == 0 ? product[j] + biases[i][out] : product[j];
      if (i >= 2) expected += before[i][j];
      ASSERT_EQ(y[i][j], expected) << "output " << i << ", element " << j;
    }
  }
}

TEST(Embed, GivesTheTablesRowsExactly) {
  for (const DType type : kTypes) {
    const Matrix table = MakeMatrix(type, 50, 256, 8);
    const std::unique_ptr<Weight> weight = Pack(table);
    const std::vector<int32_t> tokens = {49, 0, 17, 17, 33, 1, 2, 3, 4, 5, 6, 7};
    std::vector<float> out(tokens.size() * 256, NAN);
    ThreadPool pool(2);
    CpuEmbed({weight.get(), tokens.data(), static_cast<int32_t>(tokens.size()), out.data()}, pool);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto* row = table.values.data() + static_cast<size_t>(tokens[i]) * 256;
      ASSERT_TRUE(std::equal(row, row + 256, out.data() + i * 256)) << GetDTypeInfo(type).name;
    }
  }
}

}  // namespace
}  // namespace spotd::kernels
