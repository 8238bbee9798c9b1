#include <functional>

#include "kernels/cuda/launch.h"
#include "tests/gpu/scene.h"

namespace spotd::kernels {
namespace {

struct Choice {
  std::vector<int32_t> selected;
  std::vector<int32_t> counts;
  std::vector<float> covered;
};

struct SelectCase {
  std::vector<int32_t> kv_len;
  int32_t block_tokens = 16;
  int32_t groups = 1;
  std::vector<BudgetRule> rules;  // one per row
  std::vector<float> lse;         // [rows, groups, stride]
  int32_t stride = 0;
};

// `select` issues the operation; the device's own by default.
Choice RunSelect(Device& device, const SelectCase& c,
                 const std::function<void(const SelectArgs&)>& select) {
  const auto rows = static_cast<int32_t>(c.kv_len.size());
  Buffer kv_len = device.Put(c.kv_len);
  Buffer rules = device.Put(c.rules);
  Buffer lse = device.Put(c.lse);
  const auto choices = static_cast<size_t>(rows * c.groups);
  Buffer selected = device.Put(std::vector<int32_t>(choices * static_cast<size_t>(c.stride), -1));
  Buffer counts = device.Put(std::vector<int32_t>(choices, -1));
  Buffer covered = device.MakePoisoned(choices * 4);
  SelectArgs args = {};
  args.batch.num_seqs = rows;
  args.batch.num_rows = rows;
  args.batch.max_kv_len = *std::max_element(c.kv_len.begin(), c.kv_len.end());
  args.batch.kv_len = kv_len.as<int32_t>();
  args.block_tokens = c.block_tokens;
  args.groups = c.groups;
  args.rules = rules.as<BudgetRule>();
  args.block_lse = lse.as<float>();
  args.lse_stride = c.stride;
  args.selected = selected.as<int32_t>();
  args.selected_stride = c.stride;
  args.counts = counts.as<int32_t>();
  args.covered_mass = covered.as<float>();
  select(args);
  Choice choice = {device.Get<int32_t>(selected), device.Get<int32_t>(counts),
                   device.Get<float>(covered)};
  // Entries past the count are free for the backend to use.
  for (size_t i = 0; i < choices; ++i) {
    const auto begin = choice.selected.begin() + static_cast<int64_t>(i) * c.stride;
    std::fill(begin + std::clamp(choice.counts[i], 0, c.stride), begin + c.stride, -1);
  }
  return choice;
}

Choice RunSelect(Device& device, const SelectCase& c) {
  return RunSelect(device, c, [&](const SelectArgs& args) { device->Select(args); });
}

enum class Shape { kNormal, kPeaked, kWide, kFlat, kTies, kOutlier, kHoles, kNothing };

std::vector<float> Masses(Shape shape, size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> lse(count);
  for (size_t i = 0; i < count; ++i) {
    const float x = normal(random);
    switch (shape) {
      case Shape::kNormal:
        lse[i] = 3.0f + x;
        break;
      case Shape::kPeaked:
        lse[i] = 8.0f * x * std::abs(x);
        break;
      case Shape::kWide:
        lse[i] = 200.0f * x;
        break;
      case Shape::kFlat:
        lse[i] = 2.5f;
        break;
      case Shape::kTies:
        lse[i] = std::floor(2.0f * x);
        break;
      case Shape::kOutlier:
        lse[i] = i == count / 2 ? -1e30f : i == count / 3 ? 60.0f : x * 1e-4f;
        break;
      case Shape::kHoles:
        lse[i] = i % 3 == 0 ? -INFINITY : i % 7 == 0 ? NAN : x;
        break;
      case Shape::kNothing:
        lse[i] = -INFINITY;
        break;
    }
  }
  return lse;
}

BudgetRule Rule(BudgetKind kind) {
  BudgetRule rule = {};
  rule.kind = kind;
  rule.p_residual = 0.8f;
  rule.p_total = 0.95f;
  rule.fraction = 0.05f;
  rule.k_tokens = 1024;
  rule.sink_tokens = 128;
  rule.recency_tokens = 256;
  rule.k_min_tokens = 512;
  return rule;
}

void ExpectSame(const SelectCase& c, const std::string& what, const Choice& actual) {
  const Choice expected = RunSelect(Reference(), c);
  EXPECT_EQ(actual.counts, expected.counts) << what;
  EXPECT_EQ(actual.selected == expected.selected, true) << what;
  EXPECT_LT(LargestError(actual.covered, expected.covered), 1e-6) << what;
}

void ExpectSame(const SelectCase& c, const std::string& what) {
  ExpectSame(c, what, RunSelect(Gpu(), c));
}

// Selection as on a device without clusters.
Choice RunSelectByTeam(const SelectCase& c) {
  return RunSelect(Gpu(), c, [](const SelectArgs& args) {
    const Buffer scratch = Gpu().Put(std::vector<uint8_t>(cuda::SelectScratchBytes(), 0));
    EXPECT_TRUE(Gpu()->Synchronize().ok());
    EXPECT_EQ(cuda::LaunchSelect({nullptr, 132, false}, args, scratch.data()), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  });
}

TEST(SelectTest, TheReferencesBlocksExactly) {
  for (const int shape : {0, 1, 2, 3, 4, 5, 6, 7}) {
    for (const int kind : {0, 1, 2, 3}) {
      SelectCase c;
      c.kv_len = {1, 15, 16, 400, 401, 5000, 33000};
      c.groups = 2;
      c.stride = 33000 / 16 + 2;
      c.rules.assign(c.kv_len.size(), Rule(static_cast<BudgetKind>(kind)));
      c.lse = Masses(static_cast<Shape>(shape), c.kv_len.size() * 2 * static_cast<size_t>(c.stride),
                     60u + shape);
      const std::string what = "shape " + std::to_string(shape) + " kind " + std::to_string(kind);
      ExpectSame(c, what);
      ExpectSame(c, what + " by a team", RunSelectByTeam(c));
    }
  }
}

SelectCase EveryCorner() {
  std::mt19937 random(61);
  const auto pick = [&](std::vector<float> from) { return from[random() % from.size()]; };
  SelectCase c;
  c.stride = 1000;
  for (int i = 0; i < 200; ++i) {
    BudgetRule rule = Rule(static_cast<BudgetKind>(random() % 4));
    rule.p_residual = pick({1e-6f, 0.3f, 0.7f, 0.9f, 0.9999f, 1.0f});
    rule.p_total = pick({1e-6f, 0.5f, 0.9f, 0.999f, 1.0f});
    rule.fraction = pick({1e-5f, 0.02f, 0.5f, 1.0f});
    rule.k_tokens = static_cast<int32_t>(pick({1, 100, 2000, 1e6f}));
    rule.sink_tokens = static_cast<int32_t>(pick({0, 1, 128, 1e6f}));
    rule.recency_tokens = static_cast<int32_t>(pick({0, 1, 256, 1e6f}));
    rule.k_min_tokens = static_cast<int32_t>(pick({0, 17, 512, 1e6f}));
    rule.k_max_tokens = static_cast<int32_t>(pick({0, 1, 640, 1e6f}));
    c.rules.push_back(rule);
    c.kv_len.push_back(static_cast<int32_t>(1 + random() % 15900));
    const std::vector<float> lse =
        Masses(static_cast<Shape>(i % 8), static_cast<size_t>(c.stride), 62u + i);
    c.lse.insert(c.lse.end(), lse.begin(), lse.end());
  }
  return c;
}

TEST(SelectTest, EveryCornerOfTheRule) {
  ExpectSame(EveryCorner(), "random rules");
}

TEST(SelectTest, EveryCornerByATeam) {
  const SelectCase c = EveryCorner();
  ExpectSame(c, "random rules", RunSelectByTeam(c));
}

TEST(SelectTest, AMillionTokens) {
  for (const int shape : {0, 1, 3, 4, 5}) {
    SelectCase c;
    c.kv_len = {1048576, 131072, 300};
    c.stride = 65536;
    c.rules = {Rule(BudgetKind::kDualTopP), Rule(BudgetKind::kFixedFraction),
               Rule(BudgetKind::kDualTopP)};
    c.lse = Masses(static_cast<Shape>(shape), 3u * 65536, 63);
    ExpectSame(c, "shape " + std::to_string(shape));
    ExpectSame(c, "by a team, shape " + std::to_string(shape), RunSelectByTeam(c));
  }
}

// Rows that shared memory does not hold beside short ones, at addresses of any alignment; then more
// of them than there are teams for.
TEST(SelectTest, LongRowsOfAnyAlignmentAndNumber) {
  for (const int shape : {0, 1, 2, 4}) {
    SelectCase c;
    c.kv_len = {270000, 17, 400001, 262144, 262145, 40000};
    c.stride = 400001 / 16 + 2;
    for (const int kind : {0, 2, 1, 0, 2, 0})
      c.rules.push_back(Rule(static_cast<BudgetKind>(kind)));
    c.lse = Masses(static_cast<Shape>(shape), c.kv_len.size() * static_cast<size_t>(c.stride), 64);
    ExpectSame(c, "shape " + std::to_string(shape));
  }
  for (const int kind : {0, 1}) {  // more blocks than a cluster takes
    SelectCase longest;
    longest.kv_len = {1100000};
    longest.stride = 1100000 / 16;
    longest.rules = {Rule(static_cast<BudgetKind>(kind))};
    longest.lse = Masses(Shape::kNormal, static_cast<size_t>(longest.stride), 66);
    ExpectSame(longest, "beyond a cluster");
  }
  SelectCase c;
  c.kv_len.assign(140, 263000);
  c.stride = 263000 / 16 + 1;
  c.rules.assign(c.kv_len.size(), Rule(BudgetKind::kDualTopP));
  c.lse = Masses(Shape::kNormal, c.kv_len.size() * static_cast<size_t>(c.stride), 65);
  ExpectSame(c, "140 long rows");
}

}  // namespace
}  // namespace spotd::kernels
