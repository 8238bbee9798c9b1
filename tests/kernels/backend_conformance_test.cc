// Attention and the cache: every backend against `ref`.
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/conformance.h"

namespace spotd::kernels {
namespace {

constexpr float kActTolerance = 2e-5f;
constexpr float kBf16Tolerance = 2e-2f;

struct Attended {
  std::vector<float> out;
  std::vector<float> lse;
};

// The blocks each (row, group) may read; empty lists: dense.
struct Chosen {
  int groups = 1;
  std::vector<std::vector<int32_t>> lists;  // [rows * groups]
};

Attended RunAttend(Rig& rig, Scene& scene, const std::vector<float>& q, const Chosen& chosen) {
  const Shape& shape = scene.shape();
  AttendArgs args = {};
  args.batch = scene.Batch(rig);
  args.layer = scene.Layer(rig);
  args.q_heads = shape.q_heads();
  args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  args.q = rig.PutAct(q);
  args.groups = chosen.groups;
  args.selected_stride = shape.max_blocks();
  if (!chosen.lists.empty()) {
    std::vector<int32_t> selected, counts;
    for (const auto& list : chosen.lists) {
      counts.push_back(static_cast<int32_t>(list.size()));
      selected.insert(selected.end(), list.begin(), list.end());
      selected.resize(counts.size() * static_cast<size_t>(args.selected_stride), -1);
    }
    args.selected = rig.Put(selected);
    args.counts = rig.Put(counts);
  }
  args.out = rig.PoisonAct(q.size());
  const size_t heads = q.size() / static_cast<size_t>(shape.head_dim);
  args.lse = rig.PoisonFloats(heads);
  rig->Attend(args);
  return {rig.GetAct(args.out, q.size()), rig.Get(args.lse, heads)};
}

Attended RunPrefill(Rig& rig, Scene& scene, const std::vector<float>& q,
                    bool full_precision = false) {
  const Shape& shape = scene.shape();
  PrefillAttendArgs args = {};
  args.batch = scene.Batch(rig);
  args.layer = scene.Layer(rig);
  args.q_heads = shape.q_heads();
  args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  args.q = rig.PutAct(q);
  args.out = rig.PoisonAct(q.size());
  const size_t heads = q.size() / static_cast<size_t>(shape.head_dim);
  args.lse = rig.PoisonFloats(heads);
  args.full_precision = full_precision;
  rig->PrefillAttend(args);
  return {rig.GetAct(args.out, q.size()), rig.Get(args.lse, heads)};
}

// Random choices that always hold the newest block.
Chosen RandomChoice(Scene& scene, int groups, double density) {
  Chosen chosen = {groups, {}};
  std::bernoulli_distribution keep(density);
  for (const int n : scene.shape().kv_len) {
    const int blocks = NumBlocks(n, scene.shape().block_tokens);
    for (int g = 0; g < groups; ++g) {
      chosen.lists.emplace_back();
      for (int b = 0; b < blocks; ++b) {
        if (b + 1 == blocks || keep(scene.random())) chosen.lists.back().push_back(b);
      }
    }
  }
  return chosen;
}

std::vector<Shape> DecodeShapes() {
  return {{3, 3, 64, 16, {1, 15, 16, 17, 333, 1000}, {}},
          {2, 1, 128, 16, {129, 2, 700}, {}},
          {1, 2, 256, 32, {33, 640, 1}, {}},
          {2, 4, 128, 64, {63, 64, 65, 511}, {}},
          {2, 7, 64, 16, {100, 259}, {}},
          {1, 8, 128, 16, {256, 255}, {}},
          {4, 4, 64, 32, {2100}, {}}};
}

class DecodeConformance : public ::testing::TestWithParam<std::tuple<std::string, Shape>> {
 protected:
  DecodeConformance() : scene_(std::get<1>(GetParam()), 7), rig_(std::get<0>(GetParam())) {}
  float tolerance() const { return rig_.bf16() ? kBf16Tolerance : kActTolerance; }
  Scene scene_;
  Rig rig_;
  Rig ref_{"ref"};
};

TEST_P(DecodeConformance, DenseAttend) {
  // Large queries give peaked distributions, small ones flat.
  for (const float scale : {0.1f, 1.0f, 6.0f}) {
    const std::vector<float> q = scene_.Queries(scale);
    const Attended actual = RunAttend(rig_, scene_, q, {});
    const Attended expected = RunAttend(ref_, scene_, q, {});
    ExpectClose(actual.out, expected.out, tolerance(), "out");
    ExpectClose(actual.lse, expected.lse, 2e-5f, "lse");
  }
}

TEST_P(DecodeConformance, ChosenBlocks) {
  const std::vector<float> q = scene_.Queries(1.0f);
  for (const int groups : {1, scene_.shape().kv_heads}) {
    for (const double density : {0.0, 0.1, 0.6}) {
      const Chosen chosen = RandomChoice(scene_, groups, density);
      const Attended actual = RunAttend(rig_, scene_, q, chosen);
      const Attended expected = RunAttend(ref_, scene_, q, chosen);
      ExpectClose(actual.out, expected.out, tolerance(), "out");
      ExpectClose(actual.lse, expected.lse, 2e-5f, "lse");
    }
  }
}

TEST_P(DecodeConformance, ChoosingEverythingIsDense) {
  const std::vector<float> q = scene_.Queries(2.0f);
  for (const int groups : {1, scene_.shape().kv_heads}) {
    const Attended all = RunAttend(rig_, scene_, q, RandomChoice(scene_, groups, 1.0));
    const Attended dense = RunAttend(rig_, scene_, q, {});
    ExpectClose(all.out, dense.out, rig_.bf16() ? 4e-3f : 1e-5f, "out");
    ExpectClose(all.lse, dense.lse, 1e-5f, "lse");
  }
}

// A row alone gives the bits it gave among others.
TEST_P(DecodeConformance, RowsDoNotDependOnTheBatch) {
  const Shape& shape = scene_.shape();
  const std::vector<float> q = scene_.Queries(1.0f);
  const Chosen chosen = RandomChoice(scene_, 1, 0.5);
  const Attended together = RunAttend(rig_, scene_, q, chosen);
  const auto row_size = static_cast<int64_t>(shape.q_heads() * shape.head_dim);
  for (size_t s = 0; s < shape.kv_len.size(); ++s) {
    AttendArgs args = {};
    args.batch = scene_.Batch(rig_);
    args.batch.num_seqs = args.batch.num_rows = 1;
    args.batch.max_kv_len = shape.kv_len[s];
    args.batch.block_tables += s * static_cast<size_t>(scene_.stride());
    args.batch.kv_len += s;
    args.layer = scene_.Layer(rig_);
    args.q_heads = shape.q_heads();
    args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    const auto begin = q.begin() + static_cast<int64_t>(s) * row_size;
    args.q = rig_.PutAct({begin, begin + row_size});
    args.groups = 1;
    args.selected_stride = shape.max_blocks();
    args.selected = rig_.Put(chosen.lists[s]);
    args.counts = rig_.Put(std::vector<int32_t>{static_cast<int32_t>(chosen.lists[s].size())});
    args.out = rig_.PoisonAct(static_cast<size_t>(row_size));
    rig_->Attend(args);
    const std::vector<float> alone = rig_.GetAct(args.out, static_cast<size_t>(row_size));
    const auto in_batch = together.out.begin() + static_cast<int64_t>(s) * row_size;
    EXPECT_EQ(alone, std::vector<float>(in_batch, in_batch + row_size)) << "row " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(, DecodeConformance,
                         ::testing::Combine(::testing::ValuesIn(BackendsUnderTest()),
                                            ::testing::ValuesIn(DecodeShapes())));

std::vector<Shape> PrefillShapes() {
  return {{3, 3, 64, 16, {200, 1, 77, 400}, {200, 1, 20, 7}},
          {2, 1, 128, 16, {300, 129}, {50, 129}},
          {1, 2, 256, 32, {70, 40}, {33, 40}},
          {2, 4, 128, 64, {513, 64}, {65, 2}},
          {2, 7, 64, 16, {150}, {150}},
          {1, 8, 128, 16, {257}, {40}}};
}

class PrefillConformance : public DecodeConformance {};

TEST_P(PrefillConformance, MatchesTheReference) {
  const Shape& shape = scene_.shape();
  const std::vector<float> q = scene_.Queries(1.0f);
  const Attended actual = RunPrefill(rig_, scene_, q);
  const Attended expected = RunPrefill(ref_, scene_, q);
  // The CPU may round queries and weights to bf16.
  ExpectClose(actual.out, expected.out, kBf16Tolerance, "out");
  ExpectClose(actual.lse, expected.lse, 1e-2f, "lse");
  ASSERT_EQ(actual.lse.size(), static_cast<size_t>(scene_.num_rows() * shape.q_heads()));
}

TEST_P(PrefillConformance, FullPrecisionKeepsFloats) {
  if (rig_->activation_bytes() != sizeof(float))
    GTEST_SKIP() << "the device's activations are bf16";
  const std::vector<float> q = scene_.Queries(1.0f);
  const Attended actual = RunPrefill(rig_, scene_, q, /*full_precision=*/true);
  const Attended expected = RunPrefill(ref_, scene_, q);
  ExpectClose(actual.out, expected.out, kActTolerance, "out");
  ExpectClose(actual.lse, expected.lse, 1e-4f, "lse");
}

// A prompt in two steps gives the bits of a prompt in one.
TEST_P(PrefillConformance, RowsDoNotDependOnTheChunk) {
  const Shape& shape = scene_.shape();
  const std::vector<float> q = scene_.Queries(1.0f);
  const Attended whole = RunPrefill(rig_, scene_, q);
  Shape last = shape;
  last.rows.clear();
  std::vector<float> last_q;
  const auto row_size = static_cast<size_t>(shape.q_heads() * shape.head_dim);
  std::vector<float> expected;
  for (size_t s = 0; s < shape.rows.size(); ++s) {
    const auto row = static_cast<int64_t>(row_size) * (scene_.row_start()[s + 1] - 1);
    const auto end = row + static_cast<int64_t>(row_size);
    last_q.insert(last_q.end(), q.begin() + row, q.begin() + end);
    expected.insert(expected.end(), whole.out.begin() + row, whole.out.begin() + end);
  }
  Scene last_rows(last, 7);  // the same seed: the same cache
  EXPECT_EQ(RunPrefill(rig_, last_rows, last_q).out, expected);
}

INSTANTIATE_TEST_SUITE_P(, PrefillConformance,
                         ::testing::Combine(::testing::ValuesIn(BackendsUnderTest()),
                                            ::testing::ValuesIn(PrefillShapes())));

class AppendConformance : public ::testing::TestWithParam<std::string> {};

struct Appended {
  std::vector<float> q;
  std::vector<Bf16> kv;
  std::vector<Bf16> summary;
};

Appended RunAppend(Rig& rig, Scene& scene, const std::vector<std::vector<float>>& qkv,
                   const std::vector<float>& norm, int rotary_dim) {
  const Shape& shape = scene.shape();
  AppendKvArgs args = {};
  args.batch = scene.Batch(rig);
  args.layer = scene.Layer(rig);
  std::vector<float> inv_freq;
  for (int i = 0; i < rotary_dim / 2; ++i) {
    inv_freq.push_back(
        std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary_dim)));
  }
  args.rope = {rig.Put(inv_freq), rotary_dim, 1.1f};
  std::vector<int32_t> positions;
  for (int r = 0; r < scene.num_rows(); ++r) positions.push_back(r * 37 % 5000);
  args.positions = rig.Put(positions);
  args.q_heads = shape.q_heads();
  args.q = rig.PutAct(qkv[0]);
  args.k = rig.PutAct(qkv[1]);
  args.v = rig.PutAct(qkv[2]);
  args.q_norm = norm.empty() ? nullptr : rig.Put(norm);
  args.k_norm = norm.empty() ? nullptr : rig.Put(norm);
  args.eps = 1e-5f;
  rig->AppendKv(args);
  return {rig.GetAct(args.q, qkv[0].size()),
          rig.Get(static_cast<const Bf16*>(args.layer.kv), scene.kv().size()),
          rig.Get(static_cast<const Bf16*>(args.layer.summary), scene.summary().size())};
}

// bf16 arrays that agree but for rounding; NaN (memory no token owns) must stay NaN.
void ExpectSameBf16(const std::vector<Bf16>& actual, const std::vector<Bf16>& expected,
                    float tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const float a = ToFloat(actual[i]), e = ToFloat(expected[i]);
    ASSERT_EQ(std::isnan(a), std::isnan(e)) << i;
    if (std::isnan(e)) continue;
    ASSERT_NEAR(a, e, tolerance * std::max(1.0f, std::fabs(e))) << i;
  }
}

TEST_P(AppendConformance, Kv) {
  for (const Shape& shape :
       {Shape{3, 3, 64, 16, {1, 15, 16, 50, 33}, {1, 3, 16, 40, 1}},
        Shape{2, 4, 128, 32, {70, 64}, {70, 1}}, Shape{1, 2, 256, 64, {129}, {66}}}) {
    for (const bool with_norm : {false, true}) {
      for (const int rotary_dim : {shape.head_dim, shape.head_dim / 4}) {
        Scene scene(shape, 11);
        const auto rows = static_cast<size_t>(scene.num_rows());
        const auto dim = static_cast<size_t>(shape.head_dim);
        const auto kv_size = rows * static_cast<size_t>(shape.kv_heads) * dim;
        const std::vector<std::vector<float>> qkv = {
            RandomFloats(rows * static_cast<size_t>(shape.q_heads()) * dim, 2, scene.random()),
            RandomFloats(kv_size, 2, scene.random()), RandomFloats(kv_size, 2, scene.random())};
        const std::vector<float> norm =
            with_norm ? RandomFloats(dim, 1, scene.random()) : std::vector<float>();
        Rig rig(GetParam()), ref("ref");
        const Appended actual = RunAppend(rig, scene, qkv, norm, rotary_dim);
        const Appended expected = RunAppend(ref, scene, qkv, norm, rotary_dim);
        ExpectClose(actual.q, expected.q, rig.bf16() ? 1e-2f : 1e-5f, "q");
        ExpectSameBf16(actual.kv, expected.kv, 8e-3f);
        ExpectSameBf16(actual.summary, expected.summary, 8e-3f);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AppendConformance, ::testing::ValuesIn(BackendsUnderTest()));

// The CPU's rows are the same bits for any number of threads.
TEST(CpuThreads, DoNotChangeTheBits) {
  Scene decode({3, 3, 64, 16, {1, 700, 2100}, {}}, 5);
  Scene prefill({3, 3, 64, 16, {300, 90}, {130, 90}}, 5);
  const std::vector<float> decode_q = decode.Queries(1.0f);
  const std::vector<float> prefill_q = prefill.Queries(1.0f);
  Rig one("cpu", 1);
  const Attended decode_one = RunAttend(one, decode, decode_q, {});
  const Attended prefill_one = RunPrefill(one, prefill, prefill_q);
  for (const int threads : {2, 3}) {
    Rig rig("cpu", threads);
    EXPECT_EQ(RunAttend(rig, decode, decode_q, {}).out, decode_one.out);
    EXPECT_EQ(RunPrefill(rig, prefill, prefill_q).out, prefill_one.out);
  }
}

// Head dimensions that no vector divides occur in tiny test models only; they must work.
TEST(CpuHeadDim, AnyMultipleOfTwo) {
  for (const int dim : {2, 6, 8, 20, 40, 80, 96}) {
    Scene scene({2, 3, dim, 16, {1, 37, 200}, {}}, 3);
    Rig rig("cpu"), ref("ref");
    const std::vector<float> q = scene.Queries(1.0f);
    const Attended expected = RunAttend(ref, scene, q, {});
    ExpectClose(RunAttend(rig, scene, q, {}).out, expected.out, kActTolerance, "decode");
    ExpectClose(RunPrefill(rig, scene, q).out, expected.out, kBf16Tolerance, "prefill");
  }
}

}  // namespace
}  // namespace spotd::kernels
