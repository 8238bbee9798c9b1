// The gradient of every selector parameter against central differences of an independent
// double-precision loss.
#include "kernels/distill.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/core/float16.h"
#include "kernels/cpu/distill.h"
#include "kernels/cuda/distill_limits.h"

namespace spotd::kernels {
namespace {

constexpr int32_t kHidden = 12;
constexpr int32_t kRows = 40;
constexpr int32_t kHeads = 2;
constexpr int32_t kDim = 32;
constexpr int32_t kQHeads = 4;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kHeadDim = 8;
constexpr int32_t kBlockTokens = 16;
constexpr float kEps = 1e-5f;

std::vector<float> Normal(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// One layer with random everything. Weights are one flat vector: q, k, w, k_norm.
struct Problem {
  std::vector<float> x = Normal(kRows * kHidden, 1);
  std::vector<float> q = Normal(kRows * kQHeads * kHeadDim, 2);
  std::vector<float> keys = Normal(kRows * kKvHeads * kHeadDim, 3);  // [rows, kv_heads, head_dim]
  std::vector<Bf16> kv;
  std::vector<int32_t> block_table = {2, 0, 1};
  std::vector<int32_t> queries = {5, 20, 33, 39};
  std::vector<int32_t> positions = std::vector<int32_t>(kRows);
  std::vector<float> inv_freq = std::vector<float>(kDim / 2);
  std::vector<float> weights;
  std::vector<float> gradients;
  DistillArgs args{};

  explicit Problem(int32_t groups = 1)
      : weights(Normal(kHeads * kDim * kHidden + kDim * kHidden + groups * kHeads * kHidden + kDim,
                       4, 0.4f)),
        gradients(weights.size(), 0.0f) {
    std::iota(positions.begin(), positions.end(), 0);
    for (size_t i = 0; i < inv_freq.size(); ++i)
      inv_freq[i] = std::pow(0.7f, static_cast<float>(i));
    for (int32_t i = 25; i < kRows; ++i) positions[i] += 100;
    FillBlocks();
    args.rows = kRows;
    args.hidden = kHidden;
    args.x = x.data();
    args.q = q.data();
    args.layer = {kv.data(),
                  nullptr,
                  nullptr,
                  3,
                  kBlockTokens,
                  kKvHeads,
                  kHeadDim,
                  0,
                  SelectorKeyFormat::kNone};
    args.block_table = block_table.data();
    args.q_heads = kQHeads;
    args.teacher_scale = 0.35f;
    args.teacher_power = 1.5f;
    args.num_queries = static_cast<int32_t>(queries.size());
    args.queries = queries.data();
    args.positions = positions.data();
    args.rope = {inv_freq.data(), kDim, 1.0f};
    args.heads = kHeads;
    args.groups = groups;
    args.dim = kDim;
    args.norm_eps = kEps;
    args.sink_tokens = 4;
    args.recency_tokens = 8;
    args.full_weight = 1.0f;
    args.residual_weight = 0.7f;
    args.recall_fraction = 0.1f;
    args.gradient_scale = 1.0f;
    args.weights = Slices(weights, groups);
    args.gradients = Slices(gradients, groups);
  }

  static SelectorTensors Slices(std::vector<float>& flat, int32_t groups) {
    float* k = flat.data() + kHeads * kDim * kHidden;
    float* w = k + kDim * kHidden;
    return {flat.data(), k, w, w + groups * kHeads * kHidden};
  }

  void FillBlocks() {
    const int64_t head = kBlockTokens * kHeadDim;
    kv.assign(3 * 2 * kKvHeads * head, ToBf16(NAN));
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t h = 0; h < kKvHeads; ++h) {
        for (int64_t i = 0; i < kHeadDim; ++i) {
          float& key = keys[(row * kKvHeads + h) * kHeadDim + i];
          const Bf16 rounded = ToBf16(key);
          key = ToFloat(rounded);
          kv[(block_table[row / kBlockTokens] * 2 * kKvHeads + h) * head +
             row % kBlockTokens * kHeadDim + i] = rounded;
        }
      }
    }
  }
};

std::vector<double> SoftmaxOf(std::vector<double> scores) {
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& s : scores) sum += s = std::exp(s - max);
  for (double& s : scores) s /= sum;
  return scores;
}

std::vector<double> HeadProbabilities(const Problem& p, int32_t row, int32_t h) {
  std::vector<double> scores(row + 1, 0.0);
  for (int32_t j = 0; j <= row; ++j) {
    for (int32_t i = 0; i < kHeadDim; ++i) {
      scores[j] += double{p.q[(row * kQHeads + h) * kHeadDim + i]} *
                   p.keys[(j * kKvHeads + h / (kQHeads / kKvHeads)) * kHeadDim + i];
    }
    scores[j] *= p.args.teacher_scale;
  }
  return SoftmaxOf(scores);
}

// The group's heads' mean outside the residual; within it their mean weighted by residual mass to a
// power, with the plain mean's total.
std::vector<double> Teacher(const Problem& p, int32_t row, int32_t group) {
  const int32_t heads = kQHeads / p.args.groups;
  const auto residual = [&](int32_t j) {
    return j >= p.args.sink_tokens && j <= row - p.args.recency_tokens;
  };
  std::vector<double> mean(row + 1, 0.0);
  double total = 0;
  double weighted_total = 0;
  for (int32_t h = group * heads; h < (group + 1) * heads; ++h) {
    const std::vector<double> head = HeadProbabilities(p, row, h);
    double mass = 0;
    for (int32_t j = 0; j <= row; ++j) mass += residual(j) ? head[j] : 0;
    const double weight = std::pow(mass, double{p.args.teacher_power});
    total += mass;
    weighted_total += weight * mass;
    for (int32_t j = 0; j <= row; ++j) mean[j] += (residual(j) ? weight : 1) * head[j] / heads;
  }
  for (int32_t j = 0; j <= row; ++j) mean[j] *= residual(j) ? total / weighted_total : 1;
  return mean;
}

std::vector<double> Project(const float* weight, int32_t out, const float* x) {
  std::vector<double> y(out, 0.0);
  for (int32_t o = 0; o < out; ++o) {
    for (int32_t i = 0; i < kHidden; ++i) y[o] += double{weight[o * kHidden + i]} * x[i];
  }
  return y;
}

void Rotate(const Problem& p, int32_t position, double* v) {
  for (int32_t i = 0; i < kDim / 2; ++i) {
    const double angle = double{p.inv_freq[i]} * position;
    const double a = v[i];
    const double b = v[i + kDim / 2];
    v[i] = a * std::cos(angle) - b * std::sin(angle);
    v[i + kDim / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
}

std::vector<double> SelectorKey(const Problem& p, int32_t row) {
  std::vector<double> k = Project(p.args.weights.k, kDim, &p.x[row * kHidden]);
  double squares = 0;
  for (const double v : k) squares += v * v;
  for (int32_t i = 0; i < kDim; ++i)
    k[i] *= p.args.weights.k_norm[i] / std::sqrt(squares / kDim + kEps);
  Rotate(p, p.positions[row], k.data());
  const SelectorKeyFormat format = p.args.key_rounding;
  if (format == SelectorKeyFormat::kNone) return k;
  std::vector<float> rounded(k.begin(), k.end());
  std::vector<Fp16> stored(SelectorKeyBytes(format, kDim) / sizeof(Fp16));
  EncodeSelectorKey(format, rounded.data(), kDim, stored.data());
  DecodeSelectorKey(format, stored.data(), kDim, rounded.data());
  return {rounded.begin(), rounded.end()};
}

double Kl(const std::vector<double>& t, const std::vector<double>& s, int32_t begin, int32_t end) {
  double t_mass = 0;
  double s_mass = 0;
  for (int32_t j = begin; j < end; ++j) {
    t_mass += t[j];
    s_mass += s[j];
  }
  double kl = 0;
  for (int32_t j = begin; j < end; ++j)
    kl += t[j] / t_mass * std::log(t[j] / t_mass / (s[j] / s_mass));
  return begin < end ? kl : 0;
}

// What the group's residual term counts for, times the number of groups.
double ResidualShare(const Problem& p, int32_t row, int32_t group) {
  const int32_t heads = kQHeads / p.args.groups;
  double own = 0;
  double total = 0;
  for (int32_t g = 0; g < p.args.groups; ++g) {
    double mass = 0;
    for (int32_t h = g * heads; h < (g + 1) * heads; ++h) {
      const std::vector<double> head = HeadProbabilities(p, row, h);
      for (int32_t j = p.args.sink_tokens; j <= row - p.args.recency_tokens; ++j) mass += head[j];
    }
    const double counts = std::pow(mass, double{p.args.group_power});
    total += counts;
    if (g == group) own = counts;
  }
  return total > 0 ? p.args.groups * own / total : 1;
}

double LossOf(const Problem& p, int32_t row, int32_t group, const std::vector<double>& scores) {
  const std::vector<double> s = SoftmaxOf(scores);
  const std::vector<double> t = Teacher(p, row, group);
  const int32_t sinks = std::min(p.args.sink_tokens, row + 1);
  return p.args.full_weight * Kl(t, s, 0, row + 1) +
         p.args.residual_weight * ResidualShare(p, row, group) *
             Kl(t, s, sinks, std::max(sinks, row + 1 - p.args.recency_tokens));
}

double Loss(const Problem& p) {
  const int32_t groups = p.args.groups;
  double loss = 0;
  for (const int32_t row : p.queries) {
    std::vector<double> q = Project(p.args.weights.q, kHeads * kDim, &p.x[row * kHidden]);
    const std::vector<double> w = Project(p.args.weights.w, groups * kHeads, &p.x[row * kHidden]);
    for (int32_t h = 0; h < kHeads; ++h) Rotate(p, p.positions[row], &q[h * kDim]);
    std::vector<std::vector<double>> scores(groups, std::vector<double>(row + 1, 0.0));
    for (int32_t j = 0; j <= row; ++j) {
      const std::vector<double> k = SelectorKey(p, j);
      for (int32_t h = 0; h < kHeads; ++h) {
        double dot = 0;
        for (int32_t i = 0; i < kDim; ++i) dot += q[h * kDim + i] * k[i];
        const double product = std::max(dot, 0.0) / std::sqrt(static_cast<double>(kDim));
        for (int32_t g = 0; g < groups; ++g) scores[g][j] += w[g * kHeads + h] * product;
      }
    }
    for (int32_t g = 0; g < groups; ++g) loss += LossOf(p, row, g, scores[g]) / groups;
  }
  return loss;
}

DistillStats RunOnce(DistillKernels& kernels, const DistillArgs& args) {
  kernels.Accumulate(args);
  return *kernels.TakeStats();
}

TEST(DistillTest, LossMatchesAnIndependentComputation) {
  for (const int32_t groups : {1, kKvHeads}) {
    Problem p(groups);
    p.args.group_power = 1.5f;
    const DistillStats stats = RunOnce(*cpu::CreateCpuDistillKernels(2), p.args);
    EXPECT_EQ(stats.queries, 4);
    EXPECT_NEAR(stats.loss, Loss(p), 1e-5 * std::abs(stats.loss));
  }
}

TEST(DistillTest, EveryGradientMatchesFiniteDifferences) {
  for (const int32_t groups : {1, kKvHeads}) {
    Problem p(groups);
    p.args.group_power = 1.5f;
    RunOnce(*cpu::CreateCpuDistillKernels(2), p.args);
    constexpr float kStep = 1e-3f;
    for (size_t i = 0; i < p.weights.size(); ++i) {
      const float saved = p.weights[i];
      p.weights[i] = saved + kStep;
      const float up = p.weights[i];
      const double loss_up = Loss(p);
      p.weights[i] = saved - kStep;
      const double slope = (loss_up - Loss(p)) / (double{up} - p.weights[i]);
      p.weights[i] = saved;
      // A ReLU that changes side within the step bends the difference, not the gradient: hence the
      // absolute part.
      EXPECT_NEAR(p.gradients[i], slope, 2e-3 + 2e-3 * std::abs(slope))
          << groups << " groups, parameter " << i;
    }
  }
}

TEST(DistillTest, RoundedKeysAreSeenByTheLossAndPassTheirGradientThrough) {
  Problem exact;
  const auto kernels = cpu::CreateCpuDistillKernels(2);
  RunOnce(*kernels, exact.args);
  for (const auto format :
       {SelectorKeyFormat::kBf16, SelectorKeyFormat::kInt4, SelectorKeyFormat::kFp4}) {
    Problem p;
    p.args.key_rounding = format;
    const DistillStats stats = RunOnce(*kernels, p.args);
    EXPECT_NEAR(stats.loss, Loss(p), 1e-5 * std::abs(stats.loss));
    // Queries and mixing weights do not move the rounding, so their gradients have no approximation
    // in them.
    const size_t keys = kHeads * kDim * kHidden;
    for (size_t i = 0; i < p.weights.size(); i += 7) {
      if (i >= keys && i < keys + kDim * kHidden) continue;
      if (i >= keys + (kDim + kHeads) * kHidden) continue;
      const float saved = p.weights[i];
      p.weights[i] = saved + 1e-3f;
      const double loss_up = Loss(p);
      p.weights[i] = saved - 1e-3f;
      const double slope = (loss_up - Loss(p)) / 2e-3;
      p.weights[i] = saved;
      EXPECT_NEAR(p.gradients[i], slope, 4e-3 + 4e-3 * std::abs(slope)) << "parameter " << i;
    }
    // Those of the keys are near what they are without rounding.
    double difference = 0;
    double size = 0;
    for (size_t i = keys; i < keys + kDim * kHidden; ++i) {
      difference += std::pow(p.gradients[i] - exact.gradients[i], 2);
      size += std::pow(exact.gradients[i], 2);
    }
    EXPECT_GT(difference, 0);
    EXPECT_LT(std::sqrt(difference / size), format == SelectorKeyFormat::kBf16 ? 0.02 : 0.5);
  }
}

TEST(DistillTest, GroupsThatMixAlikeSeeTheSharedStudent) {
  // With the same mixing weights in every group, what the student believes is what the shared one
  // does; the teachers differ.
  Problem shared;
  Problem grouped(kKvHeads);
  const auto begin = static_cast<int64_t>(shared.args.weights.w - shared.weights.data());
  std::copy_n(shared.weights.begin(), begin, grouped.weights.begin());
  for (int32_t g = 0; g < kKvHeads; ++g) {
    std::copy_n(shared.args.weights.w, kHeads * kHidden,
                grouped.args.weights.w + g * kHeads * kHidden);
  }
  std::copy_n(shared.args.weights.k_norm, kDim, grouped.args.weights.k_norm);
  const auto kernels = cpu::CreateCpuDistillKernels(1);
  const DistillStats one = RunOnce(*kernels, shared.args);
  const DistillStats many = RunOnce(*kernels, grouped.args);
  EXPECT_NEAR(many.believed_mass, one.believed_mass, 1e-6);
  EXPECT_GT(std::abs(many.kl - one.kl), 1e-6);
}

TEST(DistillTest, SparseStageGradientVanishesOutsideTheChosenBlocks) {
  // With every block chosen, the sparse loss is the dense one.
  Problem dense;
  Problem sparse;
  sparse.args.sparse_fraction = 1.0f;
  const auto kernels = cpu::CreateCpuDistillKernels(1);
  const DistillStats dense_stats = RunOnce(*kernels, dense.args);
  const DistillStats sparse_stats = RunOnce(*kernels, sparse.args);
  EXPECT_DOUBLE_EQ(dense_stats.loss, sparse_stats.loss);
  EXPECT_EQ(dense.gradients, sparse.gradients);

  // With only the reserved ones chosen it is another loss.
  Problem narrow;
  narrow.args.sparse_fraction = 0.01f;
  narrow.args.recency_tokens = 1;
  EXPECT_NE(RunOnce(*kernels, narrow.args).loss, dense_stats.loss);
}

TEST(DistillTest, GradientsAccumulateAndDoNotDependOnThreads) {
  Problem once;
  Problem twice;
  RunOnce(*cpu::CreateCpuDistillKernels(1), once.args);
  const auto kernels = cpu::CreateCpuDistillKernels(3);
  RunOnce(*kernels, twice.args);
  EXPECT_EQ(once.gradients, twice.gradients);
  RunOnce(*kernels, twice.args);
  for (size_t i = 0; i < once.gradients.size(); ++i) {
    EXPECT_NEAR(twice.gradients[i], 2 * once.gradients[i],
                1e-5 + 1e-5 * std::abs(once.gradients[i]));
  }
}

TEST(DistillTest, AdamWFollowsThePublishedRule) {
  // Loshchilov & Hutter, arXiv 1711.05101, algorithm 2, two steps by hand in double precision.
  float weight = 0.5f;
  float m = 0;
  float v = 0;
  const float gradients[2] = {0.2f, -0.1f};
  double w = 0.5;
  double dm = 0;
  double dv = 0;
  const auto kernels = cpu::CreateCpuDistillKernels(1);
  for (int step = 1; step <= 2; ++step) {
    const double g = gradients[step - 1] * 0.5;
    AdamWArgs args{1,    &weight, &gradients[step - 1], &m, &v, 0.5f, 0.01f, 0.9f, 0.95f, 1e-8f,
                   0.1f, step};
    kernels->AdamW(args);
    dm = 0.9 * dm + 0.1 * g;
    dv = 0.95 * dv + 0.05 * g * g;
    w -= 0.01 *
         (dm / (1 - std::pow(0.9, step)) / (std::sqrt(dv / (1 - std::pow(0.95, step))) + 1e-8) +
          0.1 * w);
    EXPECT_NEAR(weight, w, 1e-6);
  }
}

TEST(DistillTest, SeveralSequencesAreTheSumOfEach) {
  Problem one;
  const DistillStats single = RunOnce(*cpu::CreateCpuDistillKernels(2), one.args);
  Problem two;
  const auto twice = [](auto values) {
    auto doubled = values;
    doubled.insert(doubled.end(), values.begin(), values.end());
    return doubled;
  };
  const std::vector<float> x = twice(two.x);
  const std::vector<float> q = twice(two.q);
  const std::vector<int32_t> table = twice(two.block_table);
  const std::vector<int32_t> queries = twice(two.queries);
  const std::vector<int32_t> positions = twice(two.positions);
  two.args.sequences = 2;
  two.args.x = x.data();
  two.args.q = q.data();
  two.args.block_table = table.data();
  two.args.table_stride = 3;
  two.args.queries = queries.data();
  two.args.positions = positions.data();
  const DistillStats both = RunOnce(*cpu::CreateCpuDistillKernels(2), two.args);
  EXPECT_EQ(both.queries, 2 * single.queries);
  EXPECT_NEAR(both.loss, 2 * single.loss, 1e-6 * std::abs(single.loss));
  for (size_t i = 0; i < one.gradients.size(); ++i) {
    EXPECT_NEAR(two.gradients[i], 2 * one.gradients[i], 1e-5 + 1e-4 * std::abs(one.gradients[i]));
  }
}

TEST(DistillTest, WithoutGradientsTheLossIsOnlyMeasured) {
  Problem p;
  const DistillStats trained = RunOnce(*cpu::CreateCpuDistillKernels(2), p.args);
  p.args.gradients = {};
  const DistillStats measured = RunOnce(*cpu::CreateCpuDistillKernels(2), p.args);
  EXPECT_EQ(measured.loss, trained.loss);
  EXPECT_EQ(measured.believed_mass, trained.believed_mass);
  EXPECT_GT(measured.believed_mass, 0);
  EXPECT_LE(measured.believed_mass, measured.queries * (1 + 1e-6));
}

// What the CUDA kernels take where a thread block gets 227 KiB, as on an H100.
TEST(DistillLimitsTest, AreWhatFitsIntoSharedMemory) {
  constexpr size_t kBytes = 232448;
  const DistillLimits limits = cuda::LimitsOfSharedMemory(kBytes, 16);
  EXPECT_EQ(limits.q_heads, 1304);
  EXPECT_LE(cuda::TeacherSharedBytes(1304), kBytes);
  EXPECT_GT(cuda::TeacherSharedBytes(1305), kBytes);
  EXPECT_EQ(limits.rows, 53867);
  EXPECT_LE(cuda::LossSharedBytes(53867, 16) + cuda::kLossStaticBytes, kBytes);
  EXPECT_EQ(cuda::LimitsOfSharedMemory(0, 16).rows, 0);
  EXPECT_EQ(cuda::LimitsOfSharedMemory(cuda::TeacherSharedBytes(7), 16).q_heads, 7);
  // 99 KiB, the least of sm_80 and later.
  EXPECT_GE(cuda::LimitsOfSharedMemory(101376, 16).q_heads, 128);
}

}  // namespace
}  // namespace spotd::kernels
