// Selector training on the GPU against the host's, which is itself checked against finite
// differences and autograd (tests/kernels/distill_*_test.cc).
#include "kernels/distill.h"

#include <cmath>
#include <numeric>

#include "tests/gpu/device.h"

namespace spotd::kernels {
namespace {

constexpr int32_t kHidden = 96;
constexpr int32_t kRows = 333;
constexpr int32_t kHeads = 4;
constexpr int32_t kDim = 32;
constexpr int32_t kQHeads = 6;
constexpr int32_t kKvHeads = 3;
constexpr int32_t kHeadDim = 32;
constexpr int32_t kBlockTokens = 16;
constexpr int32_t kBlocks = (kRows + kBlockTokens - 1) / kBlockTokens;
constexpr int32_t kSequences = 2;
constexpr int64_t WeightCount(int32_t groups) {
  return int64_t{kHeads} * kDim * kHidden + kDim * kHidden + groups * kHeads * kHidden + kDim;
}

struct Result {
  DistillStats stats;
  std::vector<float> gradients;
  std::vector<float> weights;  // after one AdamW step
  double squares = 0;
};

SelectorTensors Slices(float* flat, int32_t groups) {
  float* k = flat + kHeads * kDim * kHidden;
  float* w = k + kDim * kHidden;
  return {flat, k, w, w + groups * kHeads * kHidden};
}

std::vector<int32_t> Positions() {
  std::vector<int32_t> positions(kSequences * kRows);
  for (int32_t i = 0; i < kSequences * kRows; ++i) {
    const int32_t row = i % kRows;
    positions[static_cast<size_t>(i)] = row < 200 ? row : row + 6000 + i;
  }
  return positions;
}

std::vector<Bf16> KeyBlocks() {
  std::vector<Bf16> kv;
  for (const float key :
       RandomActs(size_t{kSequences * kBlocks} * 2 * kKvHeads * kBlockTokens * kHeadDim, 3)) {
    kv.push_back(ToBf16(key));
  }
  return kv;
}

Result Train(Device& device, float sparse_fraction, int repeats, bool learn = true,
             int32_t groups = 1, SelectorKeyFormat key_rounding = SelectorKeyFormat::kNone,
             int32_t q_heads = kQHeads) {
  const int64_t count = WeightCount(groups);
  auto kernels = CreateDistillKernels(&*device, 2);
  EXPECT_TRUE(kernels.ok()) << kernels.status();
  Buffer x = device.PutActs(RandomActs(size_t{kSequences * kRows} * kHidden, 1));
  Buffer q = device.PutActs(RandomActs(size_t{kSequences * kRows} * q_heads * kHeadDim, 2));
  Buffer kv = device.Put(KeyBlocks());
  std::vector<int32_t> table(kSequences * kBlocks);
  std::iota(table.rbegin(), table.rend(), 0);
  Buffer block_table = device.Put(table);
  Buffer queries =
      device.Put(std::vector<int32_t>{0, 40, 130, 131, 255, 300, 332, 7, 8, 9, 77, 200, 250, 331});
  Buffer positions = device.Put(Positions());
  std::vector<float> frequencies(kDim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(1e5f, -static_cast<float>(i) / static_cast<float>(kDim / 2));
  }
  Buffer inv_freq = device.Put(frequencies);
  Buffer weights = device.Put(RandomFloats(count, 4, 0.0f, 0.1f));
  Buffer gradients = device.Put(std::vector<float>(count, NAN));
  Buffer first = device.Put(std::vector<float>(count, 0.0f));
  Buffer second = device.Put(std::vector<float>(count, 0.0f));

  DistillArgs args{};
  args.sequences = kSequences;
  args.rows = kRows;
  args.hidden = kHidden;
  args.x = x.data();
  args.q = q.data();
  args.layer = {kv.data(), nullptr,  nullptr, kSequences * kBlocks,    kBlockTokens,
                kKvHeads,  kHeadDim, 0,       SelectorKeyFormat::kNone};
  args.block_table = block_table.as<int32_t>();
  args.table_stride = kBlocks;
  args.q_heads = q_heads;
  args.teacher_scale = 0.3f;
  args.teacher_power = 1.0f;
  args.num_queries = 7;
  args.queries = queries.as<int32_t>();
  args.positions = positions.as<int32_t>();
  args.rope = {inv_freq.as<float>(), kDim, 1.0f};
  args.heads = kHeads;
  args.groups = groups;
  args.group_power = 1.5f;
  args.dim = kDim;
  args.norm_eps = 1e-5f;
  args.key_rounding = key_rounding;
  args.sink_tokens = 32;
  args.recency_tokens = 64;
  args.full_weight = 1.0f;
  args.residual_weight = 0.5f;
  args.recall_fraction = 0.1f;
  args.sparse_fraction = sparse_fraction;
  args.gradient_scale = 0.25f;
  args.weights = Slices(weights.as<float>(), groups);
  if (learn) args.gradients = Slices(gradients.as<float>(), groups);

  (*kernels)->Zero(gradients.as<float>(), count);
  for (int i = 0; i < repeats; ++i) (*kernels)->Accumulate(args);
  Result result;
  const auto stats = (*kernels)->TakeStats();
  EXPECT_TRUE(stats.ok()) << stats.status();
  result.stats = *stats;
  result.squares = (*kernels)->SumOfSquares(gradients.as<float>(), count);
  AdamWArgs adam{count,
                 weights.as<float>(),
                 gradients.as<float>(),
                 first.as<float>(),
                 second.as<float>(),
                 0.5f,
                 1e-2f,
                 0.9f,
                 0.95f,
                 1e-8f,
                 0.01f,
                 1};
  (*kernels)->AdamW(adam);
  result.gradients = device.Get<float>(gradients);
  result.weights = device.Get<float>(weights);
  return result;
}

void ExpectLike(const Result& gpu, const Result& host) {
  EXPECT_EQ(gpu.stats.queries, host.stats.queries);
  // Operands of products are rounded to TF32's 10 bits of mantissa, 5e-4 each; the gradient's
  // differences of probabilities enlarge that.
  EXPECT_NEAR(gpu.stats.loss, host.stats.loss, 2e-3 * std::abs(host.stats.loss));
  EXPECT_NEAR(gpu.stats.kl, host.stats.kl, 2e-3 * std::abs(host.stats.kl));
  EXPECT_NEAR(gpu.stats.residual_kl, host.stats.residual_kl,
              2e-3 * std::abs(host.stats.residual_kl));
  EXPECT_NEAR(gpu.stats.recalled_mass, host.stats.recalled_mass,
              2e-2 * std::abs(host.stats.recalled_mass));
  EXPECT_NEAR(gpu.stats.believed_mass, host.stats.believed_mass,
              2e-2 * std::abs(host.stats.believed_mass));
  EXPECT_LT(RelativeError(gpu.gradients, host.gradients), 2e-2);
  EXPECT_NEAR(gpu.squares, host.squares, 2e-2 * host.squares);
  EXPECT_LT(LargestError(gpu.weights, host.weights), 2.1e-2);  // a step's sign may flip near zero
}

TEST(DistillGpuTest, LossAndGradientsAreTheHosts) {
  for (const int32_t groups : {1, kKvHeads}) {
    for (const float sparse_fraction : {0.0f, 0.3f}) {
      SCOPED_TRACE(testing::Message() << groups << " groups, sparse " << sparse_fraction);
      const Result host = Train(Reference(), sparse_fraction, 2, true, groups);
      const Result gpu = Train(Gpu(), sparse_fraction, 2, true, groups);
      ExpectLike(gpu, host);
    }
  }
}

TEST(DistillGpuTest, RoundedKeysAreTheHosts) {
  for (const auto format : {SelectorKeyFormat::kInt4, SelectorKeyFormat::kFp4}) {
    const Result host = Train(Reference(), 0.0f, 1, true, 1, format);
    const Result gpu = Train(Gpu(), 0.0f, 1, true, 1, format);
    // A key near the middle between two codes may fall to either side.
    EXPECT_NEAR(gpu.stats.loss, host.stats.loss, 1e-2 * std::abs(host.stats.loss));
    EXPECT_LT(RelativeError(gpu.gradients, host.gradients), 5e-2);
  }
}

// More heads than have their warps' sums in shared memory at once.
TEST(DistillGpuTest, ManyHeadsAreTheHosts) {
  constexpr int32_t kMany = 66;
  const Result host = Train(Reference(), 0.0f, 1, true, kKvHeads, SelectorKeyFormat::kNone, kMany);
  const Result gpu = Train(Gpu(), 0.0f, 1, true, kKvHeads, SelectorKeyFormat::kNone, kMany);
  ExpectLike(gpu, host);
}

// What a device says of itself: Qwen3-32B has 64 query heads.
TEST(DistillGpuTest, TheDeviceTakesLargeModels) {
  const auto kernels = CreateDistillKernels(&*Gpu(), 2);
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  const DistillLimits limits = (*kernels)->limits(kBlockTokens);
  EXPECT_GE(limits.q_heads, 64);
  EXPECT_GE(limits.rows, 16384);
  EXPECT_LT(limits.rows, 1 << 20);
}

TEST(DistillGpuTest, MeasuringLeavesGradientsAlone) {
  const Result trained = Train(Gpu(), 0.0f, 1);
  const Result measured = Train(Gpu(), 0.0f, 1, false);
  EXPECT_EQ(measured.stats.loss, trained.stats.loss);
  EXPECT_EQ(measured.squares, 0.0);
}

TEST(DistillGpuTest, RunsRepeatBitForBit) {
  const Result first = Train(Gpu(), 0.0f, 3, true, kKvHeads);
  const Result second = Train(Gpu(), 0.0f, 3, true, kKvHeads);
  EXPECT_TRUE(SameBits(first.gradients, second.gradients));
  EXPECT_TRUE(SameBits(first.weights, second.weights));
  EXPECT_EQ(first.stats.loss, second.stats.loss);
}

}  // namespace
}  // namespace spotd::kernels
