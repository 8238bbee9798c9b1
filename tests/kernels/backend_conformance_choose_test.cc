// Scoring and choosing blocks: every backend against `ref`.
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/conformance.h"

namespace spotd::kernels {
namespace {

constexpr BudgetRule kTopP = {BudgetKind::kDualTopP, 0.8f, 0.98f, 0, 0, 32, 64, 96, 0};

BudgetRule FixedFraction(float fraction) {
  return {BudgetKind::kFixedFraction, 0, 0, fraction, 0, 16, 16, 0, 0};
}

// The scores of one row and group, without what lies beyond its blocks.
std::vector<float> Used(const Scene& scene, const std::vector<float>& lse, int groups) {
  const auto stride = static_cast<size_t>(scene.stride());
  std::vector<float> used;
  for (size_t i = 0; i < lse.size() / stride; ++i) {
    const int n = scene.shape().kv_len[i / static_cast<size_t>(groups)];
    const auto begin = lse.begin() + static_cast<int64_t>(i * stride);
    used.insert(used.end(), begin, begin + NumBlocks(n, scene.shape().block_tokens));
  }
  return used;
}

// Entries at or beyond the row's block count stay as they were.
void ExpectRestUntouched(const Scene& scene, const std::vector<float>& lse, int groups) {
  const auto stride = static_cast<size_t>(scene.stride());
  for (size_t i = 0; i < lse.size(); ++i) {
    const int n = scene.shape().kv_len[i / stride / static_cast<size_t>(groups)];
    if (static_cast<int>(i % stride) < NumBlocks(n, scene.shape().block_tokens)) continue;
    ASSERT_TRUE(std::isnan(lse[i])) << i;
  }
}

std::vector<float> RunOracle(Rig& rig, Scene& scene, const std::vector<float>& q, int groups) {
  const float scale = 1 / std::sqrt(static_cast<float>(scene.shape().head_dim));
  const size_t size = static_cast<size_t>(scene.num_rows() * groups * scene.stride());
  const OracleScoreArgs args = {
      scene.Batch(rig), scene.Layer(rig),       scene.shape().q_heads(), scale,
      rig.PutAct(q),    rig.PoisonFloats(size), scene.stride(),          groups};
  rig->OracleScore(args);
  return rig.Get(args.block_lse, size);
}

std::vector<float> RunQuest(Rig& rig, Scene& scene, const std::vector<float>& q) {
  const float scale = 1 / std::sqrt(static_cast<float>(scene.shape().head_dim));
  const size_t size =
      static_cast<size_t>(scene.num_rows() * scene.shape().kv_heads * scene.stride());
  const QuestScoreArgs args = {
      scene.Batch(rig), scene.Layer(rig),       scene.shape().q_heads(), scale,
      rig.PutAct(q),    rig.PoisonFloats(size), scene.stride()};
  rig->QuestScore(args);
  return rig.Get(args.block_lse, size);
}

struct Selected {
  std::vector<std::vector<int32_t>> lists;  // [rows * groups]
  std::vector<float> covered;
};

Selected RunSelect(Rig& rig, const Scene& scene, const std::vector<BudgetRule>& rules,
                   const std::vector<float>& lse, int groups) {
  const auto choices = static_cast<size_t>(scene.num_rows() * groups);
  const auto stride = static_cast<size_t>(scene.stride());
  SelectArgs args = {};
  args.batch = scene.Batch(rig);
  args.block_tokens = scene.shape().block_tokens;
  args.groups = groups;
  args.rules = rig.Put(rules);
  args.block_lse = lse.empty() ? nullptr : rig.Put(lse);
  args.lse_stride = scene.stride();
  args.selected = rig.Put(std::vector<int32_t>(choices * stride, -7));
  args.selected_stride = scene.stride();
  args.counts = rig.Put(std::vector<int32_t>(choices, -7));
  args.covered_mass = rig.PoisonFloats(choices);
  rig->Select(args);
  const std::vector<int32_t> selected = rig.Get(args.selected, choices * stride);
  const std::vector<int32_t> counts = rig.Get(args.counts, choices);
  Selected result = {{}, rig.Get(args.covered_mass, choices)};
  for (size_t c = 0; c < choices; ++c) {
    const auto begin = selected.begin() + static_cast<int64_t>(c * stride);
    result.lists.emplace_back(begin, begin + counts[c]);
  }
  return result;
}

std::vector<Shape> Shapes() {
  return {{3, 3, 64, 16, {1, 15, 16, 17, 333, 2000}, {}},
          {2, 1, 128, 16, {129, 700}, {}},
          {1, 2, 256, 32, {33, 640, 1}, {}},
          {2, 8, 128, 64, {63, 64, 65, 511}, {}},
          {2, 7, 64, 16, {100, 1259}, {}}};
}

class ChooseConformance : public ::testing::TestWithParam<std::string> {
 protected:
  Rig rig_{GetParam()};
  Rig ref_{"ref"};
};

TEST_P(ChooseConformance, OracleScore) {
  for (const Shape& shape : Shapes()) {
    Scene scene(shape, 21);
    for (const float scale : {0.3f, 3.0f}) {
      const std::vector<float> q = scene.Queries(scale);
      for (const int groups : {1, shape.kv_heads}) {
        const std::vector<float> actual = RunOracle(rig_, scene, q, groups);
        ExpectRestUntouched(scene, actual, groups);
        ExpectClose(Used(scene, actual, groups),
                    Used(scene, RunOracle(ref_, scene, q, groups), groups), 3e-5f, "lse");
      }
    }
  }
}

TEST_P(ChooseConformance, QuestScore) {
  for (const Shape& shape : Shapes()) {
    Scene scene(shape, 22);
    for (const float scale : {0.3f, 3.0f}) {
      const std::vector<float> q = scene.Queries(scale);
      const std::vector<float> actual = RunQuest(rig_, scene, q);
      ExpectRestUntouched(scene, actual, shape.kv_heads);
      ExpectClose(Used(scene, actual, shape.kv_heads),
                  Used(scene, RunQuest(ref_, scene, q), shape.kv_heads), 3e-5f, "lse");
    }
  }
}

// Quest bounds every token's score from above, so its mass is never below the block's best token.
TEST(QuestScore, BoundsTheTrueScores) {
  Scene scene({1, 1, 64, 16, {500}, {}}, 23);
  const std::vector<float> q = scene.Queries(2.0f);
  const KvLayer layer = scene.HostLayer(scene.kv().data(), scene.summary().data());
  for (int b = 0; b < 500 / 16; ++b) {
    const int physical = scene.Physical(0, b);
    float bound = 0, best = -INFINITY;
    const Bf16* const summary = BlockSummary(layer, physical, 0);
    for (int t = 0; t < 16; ++t) {
      float dot = 0;
      for (int i = 0; i < 64; ++i) {
        dot += q[static_cast<size_t>(i)] * ToFloat(BlockKeys(layer, physical, 0)[t * 64 + i]);
      }
      best = std::max(best, dot);
    }
    for (int i = 0; i < 64; ++i) {
      const float qi = q[static_cast<size_t>(i)];
      bound += std::max(qi * ToFloat(summary[i]), qi * ToFloat(summary[64 + i]));
    }
    EXPECT_GE(bound, best - 1e-3f) << b;
  }
}

std::vector<float> RunSelector(Rig& rig, Scene& scene, SelectorKeyFormat format, int heads, int dim,
                               int groups, uint32_t seed) {
  std::mt19937 random(seed);
  const Shape& shape = scene.shape();
  // Every token is appended in this step, then one query per sequence is scored.
  Shape all = shape;
  all.rows = shape.kv_len;
  Scene appended(all, 99);
  KvLayer layer = appended.Layer(rig);
  layer.selector_dim = dim;
  layer.selector_format = format;
  const size_t key_bytes = SelectorKeyBytes(format, dim);
  layer.selector_keys = rig.Put(std::vector<uint8_t>(
      static_cast<size_t>(appended.num_blocks() * shape.block_tokens) * key_bytes, 0xff));
  std::vector<float> inv_freq;
  for (int i = 0; i < dim / 2; ++i) {
    inv_freq.push_back(std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(dim)));
  }
  std::vector<int32_t> positions;
  for (const int n : shape.kv_len) {
    for (int t = 0; t < n; ++t) positions.push_back(t);
  }
  const Rope rope = {rig.Put(inv_freq), dim, 1.0f};
  AppendSelectorArgs append = {};
  append.batch = appended.Batch(rig);
  append.layer = layer;
  append.rope = rope;
  append.positions = rig.Put(positions);
  append.heads = heads;
  append.k = rig.PutAct(RandomFloats(positions.size() * static_cast<size_t>(dim), 1, random));
  append.k_norm = rig.Put(RandomFloats(static_cast<size_t>(dim), 1, random));
  append.eps = 1e-5f;
  rig->AppendSelector(append);

  const auto rows = static_cast<size_t>(scene.num_rows());
  const auto choices = rows * static_cast<size_t>(groups);
  const auto size = choices * static_cast<size_t>(scene.stride());
  SelectorScoreArgs args = {};
  args.batch = appended.Batch(rig);
  args.batch.num_rows = scene.num_rows();
  args.layer = layer;
  args.heads = heads;
  args.q = rig.PutAct(RandomFloats(rows * static_cast<size_t>(heads * dim), 1, random));
  args.w = rig.PutAct(RandomFloats(choices * static_cast<size_t>(heads), 1, random));
  args.groups = groups;
  args.block_lse = rig.PoisonFloats(size);
  args.lse_stride = scene.stride();
  rig->SelectorScore(args);
  return rig.Get(args.block_lse, size);
}

TEST_P(ChooseConformance, SelectorScore) {
  for (const SelectorKeyFormat format :
       {SelectorKeyFormat::kBf16, SelectorKeyFormat::kInt4, SelectorKeyFormat::kFp4}) {
    for (const auto& [heads, dim, groups] : {std::array{4, 128, 1},
                                             {4, 64, 1},
                                             {8, 128, 1},
                                             {1, 64, 1},
                                             {3, 32, 1},
                                             {4, 64, 3},
                                             {5, 128, 2},
                                             {4, 32, 11}}) {
      for (const Shape& shape :
           {Shape{1, 1, 64, 16, {1, 16, 40, 333}, {}}, Shape{1, 1, 64, 32, {33, 500}, {}},
            Shape{1, 1, 64, 64, {63, 200}, {}}}) {
        Scene scene(shape, 24);
        const std::vector<float> actual = RunSelector(rig_, scene, format, heads, dim, groups, 5);
        const std::vector<float> expected = RunSelector(ref_, scene, format, heads, dim, groups, 5);
        ExpectRestUntouched(scene, actual, groups);
        // A key on the edge between two codes may fall to either side.
        const float tolerance = rig_.bf16()                          ? 0.1f
                                : format == SelectorKeyFormat::kBf16 ? 5e-3f
                                                                     : 3e-2f;
        ExpectClose(Used(scene, actual, groups), Used(scene, expected, groups), tolerance, "lse");
      }
    }
  }
}

// What a kernel may treat apart: a chunk of blocks and a part of one, more heads and groups than
// one pass takes, dimensions of few key groups and of none.
TEST_P(ChooseConformance, SelectorScoreOfOddShapes) {
  if (GetParam() == "cuda") GTEST_SKIP() << "SelectorScore has the shapes its kernels tell apart";
  struct Case {
    SelectorKeyFormat format;
    int heads, dim, groups;
  };
  for (const auto& [format, heads, dim, groups] :
       {Case{SelectorKeyFormat::kBf16, 9, 34, 2}, Case{SelectorKeyFormat::kInt4, 12, 96, 9},
        Case{SelectorKeyFormat::kInt4, 8, 32, 3}, Case{SelectorKeyFormat::kFp4, 13, 48, 3},
        Case{SelectorKeyFormat::kFp4, 8, 16, 1}}) {
    for (const Shape& shape :
         {Shape{1, 1, 64, 16, {1, 31, 1100}, {}}, Shape{1, 1, 64, 32, {70, 2100}, {}},
          Shape{1, 1, 64, 64, {64, 65, 130}, {}}}) {
      Scene scene(shape, 28);
      const std::vector<float> actual = RunSelector(rig_, scene, format, heads, dim, groups, 6);
      const std::vector<float> expected = RunSelector(ref_, scene, format, heads, dim, groups, 6);
      ExpectRestUntouched(scene, actual, groups);
      // Queries rounded to int8 err in proportion to the square root of the heads.
      const float tolerance = format == SelectorKeyFormat::kBf16 ? 5e-3f : 6e-2f;
      ExpectClose(Used(scene, actual, groups), Used(scene, expected, groups), tolerance, "lse");
    }
  }
}

// The queries a decode step hands to SelectorScore are rotated; keys stay where they were.
TEST_P(ChooseConformance, AppendSelectorRotatesQueries) {
  Shape shape = {1, 1, 64, 16, {20, 5}, {3, 1}};
  Scene scene(shape, 25);
  const std::vector<float> q = RandomFloats(4 * 2 * 64, 1, scene.random());
  const std::vector<float> k = RandomFloats(4 * 64, 1, scene.random());
  std::vector<std::vector<float>> results;
  for (Rig* rig : {&rig_, &ref_}) {
    AppendSelectorArgs args = {};
    args.batch = scene.Batch(*rig);
    args.layer = scene.Layer(*rig);
    args.layer.selector_dim = 64;
    args.layer.selector_format = SelectorKeyFormat::kInt4;
    args.layer.selector_keys =
        rig->Put(std::vector<uint8_t>(static_cast<size_t>(scene.num_blocks() * 16) *
                                      SelectorKeyBytes(SelectorKeyFormat::kInt4, 64)));
    std::vector<float> inv_freq(32);
    for (size_t i = 0; i < 32; ++i) inv_freq[i] = std::pow(0.8f, static_cast<float>(i));
    args.rope = {rig->Put(inv_freq), 64, 1.0f};
    args.positions = rig->Put(std::vector<int32_t>{17, 18, 19, 4});
    args.heads = 2;
    args.q = rig->PutAct(q);
    args.k = rig->PutAct(k);
    args.k_norm = rig->Put(std::vector<float>(64, 1.0f));
    args.eps = 1e-5f;
    (*rig)->AppendSelector(args);
    results.push_back(rig->GetAct(args.q, q.size()));
  }
  ExpectClose(results[0], results[1], rig_.bf16() ? 1e-2f : 1e-5f, "q");
}

// The same scores give the same choice, bit for bit, on every backend.
TEST_P(ChooseConformance, Select) {
  std::vector<BudgetRule> kinds = {kTopP, FixedFraction(0.1f)};
  kinds.push_back({BudgetKind::kFixedTokens, 0, 0, 0, 256, 16, 32, 0, 0});
  kinds.push_back({BudgetKind::kReservedOnly, 0, 0, 0, 0, 32, 64, 0, 0});
  kinds.push_back({BudgetKind::kDualTopP, 0.9f, 1.0f, 0, 0, 0, 0, 0, 128});
  kinds.push_back({BudgetKind::kDualTopP, 1.0f, 1.0f, 0, 0, 0, 0, 0, 0});
  for (const Shape& shape : Shapes()) {
    Scene scene(shape, 26);
    for (const int groups : {1, shape.kv_heads}) {
      const auto size = static_cast<size_t>(scene.num_rows() * groups * scene.stride());
      std::vector<float> lse = RandomFloats(size, 3, scene.random());
      for (size_t i = 0; i < size; i += 17) lse[i] = -INFINITY;
      for (size_t first = 0; first < kinds.size(); ++first) {
        std::vector<BudgetRule> rules;  // every row its own
        for (int r = 0; r < scene.num_rows(); ++r) {
          rules.push_back(kinds[(first + static_cast<size_t>(r)) % kinds.size()]);
        }
        const Selected actual = RunSelect(rig_, scene, rules, lse, groups);
        const Selected expected = RunSelect(ref_, scene, rules, lse, groups);
        EXPECT_EQ(actual.lists, expected.lists);
        ExpectClose(actual.covered, expected.covered, 1e-6f, "covered");
      }
    }
  }
}

TEST_P(ChooseConformance, SelectWithoutScores) {
  Scene scene({1, 1, 64, 16, {500, 3}, {}}, 27);
  const std::vector<BudgetRule> rules(2, {BudgetKind::kReservedOnly, 0, 0, 0, 0, 20, 30, 99, 0});
  const Selected chosen = RunSelect(rig_, scene, rules, {}, 1);
  EXPECT_EQ(chosen.lists[0], (std::vector<int32_t>{0, 1, 29, 30, 31}));
  EXPECT_EQ(chosen.lists[1], (std::vector<int32_t>{0}));
  EXPECT_EQ(chosen.covered, (std::vector<float>{1, 1}));
}

// Sums exp(lse) over a list.
double MassOf(const std::vector<float>& lse, size_t row, int stride,
              const std::vector<int32_t>& list) {
  double mass = 0;
  for (const int32_t b : list) {
    mass += std::exp(double{lse[row * static_cast<size_t>(stride) + static_cast<size_t>(b)]});
  }
  return mass;
}

// At the same number of blocks nobody covers more true mass than the oracle.
TEST_P(ChooseConformance, OracleCoversMostAtEqualDensity) {
  for (uint32_t seed = 30; seed < 36; ++seed) {
    Scene scene({2, 3, 64, 16, {900, 1777, 300}, {}}, seed);
    const std::vector<float> q = scene.Queries(1.5f);
    const std::vector<float> truth = RunOracle(ref_, scene, q, 1);
    const std::vector<float> oracle = RunOracle(rig_, scene, q, 1);
    const std::vector<float> quest = RunQuest(rig_, scene, q);
    const std::vector<float> selector =
        RunSelector(rig_, scene, SelectorKeyFormat::kInt4, 4, 64, 1, seed);
    for (const float fraction : {0.05f, 0.1f, 0.3f}) {
      const std::vector<BudgetRule> rules(3, FixedFraction(fraction));
      const Selected best = RunSelect(rig_, scene, rules, oracle, 1);
      const Selected by_group = RunSelect(rig_, scene, rules, quest, 2);
      const Selected distilled = RunSelect(rig_, scene, rules, selector, 1);
      for (size_t row = 0; row < 3; ++row) {
        const double most = MassOf(truth, row, scene.stride(), best.lists[row]);
        EXPECT_NEAR(best.covered[row], most, 1e-4);
        for (const auto* list :
             {&by_group.lists[2 * row], &by_group.lists[2 * row + 1], &distilled.lists[row]}) {
          ASSERT_EQ(list->size(), best.lists[row].size());
          EXPECT_LE(MassOf(truth, row, scene.stride(), *list), most + 1e-5);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ChooseConformance, ::testing::ValuesIn(BackendsUnderTest()));

}  // namespace
}  // namespace spotd::kernels
