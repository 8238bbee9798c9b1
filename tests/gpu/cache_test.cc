#include "tests/gpu/scene.h"

namespace spotd::kernels {
namespace {

struct AppendResult {
  std::vector<float> q;
  std::vector<float> cache;  // NaN bits where nothing was written
  std::vector<float> summary;
};

std::vector<float> Widen(const std::vector<Bf16>& values) {
  std::vector<float> wide;
  for (const Bf16 value : values) wide.push_back(value.bits == 0xffff ? -12345.0f : ToFloat(value));
  return wide;
}

AppendResult RunAppend(Device& device, const SceneShape& shape, int32_t rotary_dim, bool norm) {
  Scene scene(device, shape, 20);
  scene.FillCache(device);
  const auto rows = static_cast<size_t>(scene.rows());
  const auto dim = static_cast<size_t>(shape.head_dim);
  std::vector<int32_t> positions;
  for (size_t i = 0; i < rows; ++i) positions.push_back(static_cast<int32_t>(i * 7919 % 1000003));
  Buffer where = device.Put(positions);
  Buffer q = device.PutActs(RandomActs(rows * static_cast<size_t>(shape.q_heads) * dim, 21));
  Buffer k = device.PutActs(RandomActs(rows * static_cast<size_t>(shape.kv_heads) * dim, 22));
  Buffer v = device.PutActs(RandomActs(rows * static_cast<size_t>(shape.kv_heads) * dim, 23));
  Buffer q_norm = device.Put(RandomFloats(dim, 24, 1.0f, 0.2f));
  Buffer k_norm = device.Put(RandomFloats(dim, 25, 1.0f, 0.2f));
  Buffer frequencies = device.Put(Scene::Frequencies(rotary_dim));
  AppendKvArgs args = {};
  args.batch = scene.batch;
  args.layer = scene.layer;
  args.rope = {frequencies.as<float>(), rotary_dim, 1.1f};
  args.positions = where.as<int32_t>();
  args.q_heads = shape.q_heads;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.q_norm = norm ? q_norm.as<float>() : nullptr;
  args.k_norm = norm ? k_norm.as<float>() : nullptr;
  args.eps = 1e-6f;
  device->AppendKv(args);
  return {device.GetActs(q), Widen(device.Get<Bf16>(scene.kv)),
          shape.summaries ? Widen(device.Get<Bf16>(scene.summary)) : std::vector<float>()};
}

TEST(CacheTest, AppendKv) {
  std::vector<SceneShape> shapes(5);
  shapes[0].kv_len = {1, 16, 17, 1000};
  shapes[0].summaries = true;
  shapes[1].kv_len = {40, 3, 100};
  shapes[1].rows = {40, 1, 37};
  shapes[1].summaries = true;
  shapes[1].head_dim = 64;
  shapes[2].kv_len = {90};
  shapes[2].rows = {70};
  shapes[2].block_tokens = 32;
  shapes[2].head_dim = 256;
  shapes[2].q_heads = 24;
  shapes[2].kv_heads = 4;
  shapes[3].kv_len = {5, 9};
  shapes[3].head_dim = 48;
  shapes[3].q_heads = 3;
  shapes[3].kv_heads = 3;
  shapes[3].summaries = true;
  shapes[4].kv_len = {200, 130};
  shapes[4].rows = {200, 2};
  shapes[4].block_tokens = 64;
  for (const SceneShape& shape : shapes) {
    for (const bool norm : {false, true}) {
      const int32_t rotary = norm ? shape.head_dim : shape.head_dim / 2;
      const AppendResult expected = RunAppend(Reference(), shape, rotary, norm);
      const AppendResult actual = RunAppend(Gpu(), shape, rotary, norm);
      EXPECT_LT(RelativeError(actual.q, expected.q), kBf16Error) << shape;
      EXPECT_LT(RelativeError(actual.cache, expected.cache), kBf16Error) << shape;
      if (shape.summaries) {
        EXPECT_LT(RelativeError(actual.summary, expected.summary), kBf16Error) << shape;
      }
    }
  }
}

std::vector<float> RunSelectorScore(Device& device, const SceneShape& shape, int32_t groups) {
  Scene scene(device, shape, 30);
  scene.FillSelectorKeys(device);
  const auto rows = static_cast<size_t>(scene.rows());
  const auto heads = static_cast<size_t>(shape.selector_heads);
  Buffer q =
      device.PutActs(RandomActs(rows * heads * static_cast<size_t>(shape.selector_dim), 31, 1.5f));
  const size_t choices = rows * static_cast<size_t>(groups);
  Buffer w = device.PutActs(RandomActs(choices * heads, 32, 2.0f));
  const int32_t stride = scene.max_blocks() + 3;
  std::vector<float> blank(choices * static_cast<size_t>(stride), -777.0f);
  Buffer lse = device.Put(blank);
  SelectorScoreArgs args = {};
  args.batch = scene.batch;
  args.layer = scene.layer;
  args.heads = shape.selector_heads;
  args.q = q.data();
  args.w = w.data();
  args.block_lse = lse.as<float>();
  args.lse_stride = stride;
  args.groups = groups;
  device->SelectorScore(args);
  return device.Get<float>(lse);
}

TEST(CacheTest, SelectorScore) {
  std::vector<SceneShape> shapes;
  const auto add = [&](std::vector<int32_t> lens, int32_t heads, int32_t dim,
                       SelectorKeyFormat format, int32_t block_tokens) {
    SceneShape shape;
    shape.kv_len = std::move(lens);
    shape.kv_heads = 1;
    shape.head_dim = 8;
    shape.selector_heads = heads;
    shape.selector_dim = dim;
    shape.format = format;
    shape.block_tokens = block_tokens;
    shapes.push_back(shape);
  };
  for (const SelectorKeyFormat format :
       {SelectorKeyFormat::kInt4, SelectorKeyFormat::kFp4, SelectorKeyFormat::kBf16}) {
    add({1, 15, 16, 17, 333, 2048}, 4, 128, format, 16);
    add({1000, 5}, 4, 64, format, 16);
    add({300, 64, 65}, 2, 32, format, 32);
    add({777}, 8, 128, format, 64);
    add({77, 40}, 5, 96, format, 16);
    add({50}, 3, 256, format, 16);
  }
  add({9000, 20000, 4}, 4, 128, SelectorKeyFormat::kInt4, 16);
  for (const SceneShape& shape : shapes) {
    for (const int32_t groups : {1, 3, 17}) {
      const std::vector<float> expected = RunSelectorScore(Reference(), shape, groups);
      const std::vector<float> actual = RunSelectorScore(Gpu(), shape, groups);
      // Both sides quantise from the same numbers up to rounding; a key on the edge between two
      // codes may differ.
      EXPECT_LT(LargestError(actual, expected), 0.05) << shape << ", " << groups << " groups";
      EXPECT_LT(RelativeError(actual, expected), 1e-3) << shape << ", " << groups << " groups";
    }
  }
}

TEST(CacheTest, AppendSelectorRotatesQueries) {
  SceneShape shape;
  shape.kv_len = {5, 900000};
  shape.kv_len[1] = 70;
  shape.selector_dim = 128;
  shape.format = SelectorKeyFormat::kInt4;
  std::vector<std::vector<float>> results;
  for (Device* device : {&Reference(), &Gpu()}) {
    Scene scene(*device, shape, 40);
    Buffer positions = device->Put(std::vector<int32_t>{4, 1048575});
    Buffer q = device->PutActs(RandomActs(2 * 4 * 128, 41));
    Buffer k = device->PutActs(RandomActs(2 * 128, 42));
    Buffer norm = device->Put(RandomFloats(128, 43, 1.0f, 0.1f));
    Buffer frequencies = device->Put(Scene::Frequencies(128, 1e6f));
    AppendSelectorArgs args = {};
    args.batch = scene.batch;
    args.layer = scene.layer;
    args.rope = {frequencies.as<float>(), 128, 1.0f};
    args.positions = positions.as<int32_t>();
    args.heads = 4;
    args.q = q.data();
    args.k = k.data();
    args.k_norm = norm.as<float>();
    args.eps = 1e-6f;
    (*device)->AppendSelector(args);
    results.push_back(device->GetActs(q));
  }
  EXPECT_LT(RelativeError(results[1], results[0]), kBf16Error);
}

// Both caches in one launch, as one after the other.
TEST(CacheTest, AppendIsItsTwoStepsToTheBit) {
  SceneShape shape;
  shape.kv_len = {1, 16, 333};
  shape.q_heads = 6;
  shape.kv_heads = 2;
  shape.head_dim = 128;
  shape.selector_dim = 128;
  shape.summaries = true;
  shape.format = SelectorKeyFormat::kInt4;
  std::vector<std::vector<float>> results;
  for (const bool fused : {false, true}) {
    Scene scene(Gpu(), shape, 44);
    scene.FillCache(Gpu());
    Buffer keys =
        Gpu().Put(std::vector<uint8_t>(static_cast<size_t>(scene.layer.num_blocks) * 16 *
                                           SelectorKeyBytes(shape.format, shape.selector_dim),
                                       7));
    scene.layer.selector_keys = keys.data();
    Buffer positions = Gpu().Put(std::vector<int32_t>{0, 15, 100332});
    Buffer q = Gpu().PutActs(RandomActs(3 * 6 * 128, 45));
    Buffer k = Gpu().PutActs(RandomActs(3 * 2 * 128, 46));
    Buffer v = Gpu().PutActs(RandomActs(3 * 2 * 128, 47));
    Buffer selector_q = Gpu().PutActs(RandomActs(3 * 4 * 128, 48));
    Buffer selector_k = Gpu().PutActs(RandomActs(3 * 128, 49));
    Buffer norm = Gpu().Put(RandomFloats(128, 43, 1.0f, 0.1f));
    Buffer frequencies = Gpu().Put(Scene::Frequencies(128, 1e6f));
    const Rope rope = {frequencies.as<float>(), 128, 1.0f};
    const AppendKvArgs kv = {scene.batch, scene.layer, rope,     positions.as<int32_t>(), 6,
                             q.data(),    k.data(),    v.data(), norm.as<float>(),        nullptr,
                             1e-6f};
    const AppendSelectorArgs selector = {
        scene.batch,       scene.layer,      rope, positions.as<int32_t>(), 4, selector_q.data(),
        selector_k.data(), norm.as<float>(), 1e-6f};
    if (fused) {
      Gpu()->Append(kv, selector);
    } else {
      Gpu()->AppendKv(kv);
      Gpu()->AppendSelector(selector);
    }
    std::vector<float> all = Gpu().GetActs(q);
    const std::vector<uint8_t> bytes = Gpu().Get<uint8_t>(keys);
    for (const std::vector<float>& part :
         {Gpu().GetActs(selector_q), Widen(Gpu().Get<Bf16>(scene.kv)),
          Widen(Gpu().Get<Bf16>(scene.summary)), std::vector<float>(bytes.begin(), bytes.end())}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    results.push_back(std::move(all));
  }
  EXPECT_TRUE(SameBits(results[0], results[1]));
}

enum class HeadScore { kQuest, kOracle, kHeadOracle };

std::vector<float> RunHeadScore(Device& device, const SceneShape& shape, HeadScore kind) {
  Scene scene(device, shape, 50);
  scene.FillCache(device);
  const auto rows = static_cast<size_t>(scene.rows());
  Buffer q =
      device.PutActs(RandomActs(rows * static_cast<size_t>(shape.q_heads * shape.head_dim), 51));
  const int32_t stride = scene.max_blocks() + 1;
  const int32_t groups = kind == HeadScore::kOracle ? 1 : shape.kv_heads;
  Buffer lse = device.Put(std::vector<float>(
      rows * static_cast<size_t>(groups) * static_cast<size_t>(stride), -777.0f));
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  if (kind == HeadScore::kQuest) {
    device->QuestScore(
        {scene.batch, scene.layer, shape.q_heads, scale, q.data(), lse.as<float>(), stride});
  } else {
    device->OracleScore({scene.batch, scene.layer, shape.q_heads, scale, q.data(), lse.as<float>(),
                         stride, groups});
  }
  return device.Get<float>(lse);
}

TEST(CacheTest, QuestAndOracleScores) {
  std::vector<SceneShape> shapes(5);
  shapes[0].kv_len = {1, 16, 17, 3000};
  shapes[1].kv_len = {500, 31};
  shapes[1].head_dim = 64;
  shapes[1].q_heads = 9;
  shapes[1].kv_heads = 3;
  shapes[2].kv_len = {400};
  shapes[2].head_dim = 256;
  shapes[2].q_heads = 24;
  shapes[2].kv_heads = 2;
  shapes[2].block_tokens = 32;
  shapes[3].kv_len = {100, 7};
  shapes[3].head_dim = 40;
  shapes[3].q_heads = 4;
  shapes[3].kv_heads = 4;
  shapes[4].kv_len = {700};
  shapes[4].block_tokens = 64;
  shapes[4].q_heads = 14;
  for (SceneShape& shape : shapes) {
    shape.summaries = true;
    for (const HeadScore kind : {HeadScore::kQuest, HeadScore::kOracle, HeadScore::kHeadOracle}) {
      const std::vector<float> expected = RunHeadScore(Reference(), shape, kind);
      const std::vector<float> actual = RunHeadScore(Gpu(), shape, kind);
      EXPECT_LT(LargestError(actual, expected), 2e-3)
          << shape << " kind " << static_cast<int>(kind);
    }
  }
}

}  // namespace
}  // namespace spotd::kernels
