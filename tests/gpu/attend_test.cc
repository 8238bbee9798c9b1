#include "tests/gpu/scene.h"

namespace spotd::kernels {
namespace {

struct Attended {
  std::vector<float> out;
  std::vector<float> lse;
};

// Every `keep`-th block or so, the last always; all when keep is 0.
std::vector<int32_t> ChooseBlocks(int32_t blocks, int32_t keep, std::mt19937& random) {
  std::vector<int32_t> chosen;
  for (int32_t b = 0; b < blocks; ++b) {
    if (keep == 0 || b == blocks - 1 || random() % static_cast<uint32_t>(keep) == 0)
      chosen.push_back(b);
  }
  return chosen;
}

struct AttendCase {
  SceneShape shape;
  int32_t groups = 0;  // 0: dense
  int32_t keep = 0;
  float deviation = 1.0f;  // of K: larger makes peaked softmaxes
};

Attended RunAttend(Device& device, const AttendCase& c) {
  Scene scene(device, c.shape, 70);
  scene.FillCache(device, c.deviation);
  const auto rows = static_cast<size_t>(scene.rows());
  const auto heads = static_cast<size_t>(c.shape.q_heads);
  Buffer q = device.PutActs(RandomActs(rows * heads * static_cast<size_t>(c.shape.head_dim), 71));
  Buffer out = device.MakePoisonedActs(rows * heads * static_cast<size_t>(c.shape.head_dim));
  Buffer lse = device.MakePoisoned(rows * heads * 4);
  AttendArgs args = {};
  args.batch = scene.batch;
  args.layer = scene.layer;
  args.q_heads = c.shape.q_heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(c.shape.head_dim));
  args.q = q.data();
  args.out = out.data();
  args.lse = lse.as<float>();
  std::vector<int32_t> selected;
  std::vector<int32_t> counts;
  std::mt19937 random(72);
  args.selected_stride = scene.max_blocks() + 1;
  for (size_t row = 0; row < rows && c.groups > 0; ++row) {
    for (int32_t group = 0; group < c.groups; ++group) {
      const int32_t blocks =
          (c.shape.kv_len[row] + c.shape.block_tokens - 1) / c.shape.block_tokens;
      std::vector<int32_t> chosen = ChooseBlocks(blocks, c.keep, random);
      counts.push_back(static_cast<int32_t>(chosen.size()));
      chosen.resize(static_cast<size_t>(args.selected_stride), -1);
      selected.insert(selected.end(), chosen.begin(), chosen.end());
    }
  }
  Buffer selected_buffer = device.Put(selected);
  Buffer counts_buffer = device.Put(counts);
  if (c.groups > 0) {
    args.groups = c.groups;
    args.selected = selected_buffer.as<int32_t>();
    args.counts = counts_buffer.as<int32_t>();
  }
  device->Attend(args);
  return {device.GetActs(out), device.Get<float>(lse)};
}

void ExpectClose(const AttendCase& c) {
  const Attended expected = RunAttend(Reference(), c);
  const Attended actual = RunAttend(Gpu(), c);
  EXPECT_LT(RelativeError(actual.out, expected.out), 5e-3) << c.shape << " keep " << c.keep;
  EXPECT_LT(LargestError(actual.lse, expected.lse), 2e-3) << c.shape << " keep " << c.keep;
}

std::vector<SceneShape> Shapes() {
  std::vector<SceneShape> shapes;
  const auto add = [&](std::vector<int32_t> lens, int32_t q_heads, int32_t kv_heads, int32_t dim,
                       int32_t block) {
    SceneShape shape;
    shape.kv_len = std::move(lens);
    shape.q_heads = q_heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = dim;
    shape.block_tokens = block;
    shapes.push_back(shape);
  };
  add({1, 2, 15, 16, 17, 127, 128, 129, 1000}, 8, 2, 128, 16);
  add({3000, 1, 777}, 32, 8, 128, 16);
  add({500, 33}, 9, 3, 64, 16);
  add({500, 33}, 14, 2, 64, 16);
  add({600, 64, 65}, 16, 1, 128, 32);
  add({600, 1}, 12, 1, 64, 64);
  add({300, 17}, 24, 2, 256, 16);
  add({200, 40}, 6, 1, 256, 32);
  add({100, 5}, 4, 4, 48, 16);
  add({100, 5}, 6, 2, 16, 8);
  add({300}, 20, 1, 128, 16);  // a group wider than the specialised kernels take
  return shapes;
}

TEST(AttendTest, Dense) {
  for (const SceneShape& shape : Shapes()) {
    ExpectClose({shape, 0, 0, 1.0f});
    ExpectClose({shape, 0, 0, 6.0f});
  }
}

TEST(AttendTest, ChosenBlocks) {
  for (const SceneShape& shape : Shapes()) {
    for (const int32_t keep : {0, 3, 50}) {
      ExpectClose({shape, 1, keep, 1.0f});
      ExpectClose({shape, shape.kv_heads, keep, 2.0f});
    }
  }
}

TEST(AttendTest, ChoosingEverythingIsDenseToTheBit) {
  for (const SceneShape& shape : Shapes()) {
    const Attended dense = RunAttend(Gpu(), {shape, 0, 0, 1.0f});
    const Attended chosen = RunAttend(Gpu(), {shape, 1, 0, 1.0f});
    EXPECT_TRUE(SameBits(dense.out, chosen.out)) << shape;
    EXPECT_TRUE(SameBits(dense.lse, chosen.lse)) << shape;
  }
}

TEST(AttendTest, ALongContext) {
  AttendCase c;
  c.shape.kv_len = {262144, 70001};
  c.shape.q_heads = 4;
  c.shape.kv_heads = 1;
  ExpectClose(c);
  c.groups = 1;
  c.keep = 20;
  ExpectClose(c);
}

// A row alone and the same row among others.
TEST(AttendTest, RowsDoNotDependOnTheirNeighbours) {
  SceneShape shape;
  shape.q_heads = 32;
  shape.kv_heads = 8;
  shape.kv_len = {5000, 20, 9000, 1, 5000};
  Scene scene(Gpu(), shape, 73);
  scene.FillCache(Gpu());
  const size_t row = static_cast<size_t>(shape.q_heads) * 128;
  Buffer q = Gpu().PutActs(RandomActs(5 * row, 74));
  AttendArgs args = {};
  args.batch = scene.batch;
  args.layer = scene.layer;
  args.q_heads = shape.q_heads;
  args.scale = 0.1f;
  args.q = q.data();
  Buffer out = Gpu().MakePoisonedActs(5 * row);
  args.out = out.data();
  Gpu()->Attend(args);
  const std::vector<float> together = Gpu().GetActs(out);
  for (int32_t r = 0; r < 5; ++r) {
    AttendArgs one = args;
    Buffer alone = Gpu().MakePoisonedActs(row);
    one.batch.num_seqs = one.batch.num_rows = 1;
    one.batch.block_tables += r * one.batch.table_stride;
    one.batch.kv_len += r;
    one.batch.max_kv_len = shape.kv_len[static_cast<size_t>(r)];
    one.q = q.as<Bf16>() + static_cast<size_t>(r) * row;
    one.out = alone.data();
    Gpu()->Attend(one);
    const auto from = together.begin() + static_cast<int64_t>(static_cast<size_t>(r) * row);
    EXPECT_TRUE(SameBits(Gpu().GetActs(alone), {from, from + static_cast<int64_t>(row)})) << r;
  }
}

Attended RunPrefill(Device& device, const SceneShape& shape, float deviation) {
  Scene scene(device, shape, 80);
  scene.FillCache(device, deviation);
  const auto rows = static_cast<size_t>(scene.rows());
  const auto heads = static_cast<size_t>(shape.q_heads);
  Buffer q = device.PutActs(RandomActs(rows * heads * static_cast<size_t>(shape.head_dim), 81));
  Buffer out = device.MakePoisonedActs(rows * heads * static_cast<size_t>(shape.head_dim));
  Buffer lse = device.MakePoisoned(rows * heads * 4);
  PrefillAttendArgs args = {};
  args.batch = scene.batch;
  args.layer = scene.layer;
  args.q_heads = shape.q_heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  args.q = q.data();
  args.out = out.data();
  args.lse = lse.as<float>();
  device->PrefillAttend(args);
  return {device.GetActs(out), device.Get<float>(lse)};
}

TEST(AttendTest, Prefill) {
  std::vector<SceneShape> shapes;
  const auto add = [&](std::vector<int32_t> lens, std::vector<int32_t> rows, int32_t q_heads,
                       int32_t kv_heads, int32_t dim, int32_t block) {
    SceneShape shape;
    shape.kv_len = std::move(lens);
    shape.rows = std::move(rows);
    shape.q_heads = q_heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = dim;
    shape.block_tokens = block;
    shapes.push_back(shape);
  };
  add({1}, {1}, 4, 1, 128, 16);
  add({100}, {100}, 4, 2, 64, 16);
  add({300, 70, 1}, {65, 70, 1}, 4, 2, 64, 16);
  add({200}, {77}, 2, 1, 256, 32);
  add({50}, {50}, 2, 1, 32, 16);
  add({40}, {13}, 2, 1, 64, 8);
  // From 128 rows on, head_dim 128 runs on Hopper's own kernel where there is one.
  add({127}, {127}, 2, 1, 128, 16);
  add({128}, {128}, 2, 1, 128, 16);
  add({129}, {129}, 4, 1, 128, 16);
  add({1000}, {300}, 2, 2, 128, 16);
  add({700, 333, 5}, {200, 333, 1}, 4, 2, 128, 16);
  add({513}, {400}, 2, 1, 128, 32);
  add({640}, {640}, 2, 1, 128, 64);
  for (const SceneShape& shape : shapes) {
    for (const float deviation : {1.0f, 5.0f}) {
      const Attended expected = RunPrefill(Reference(), shape, deviation);
      const Attended actual = RunPrefill(Gpu(), shape, deviation);
      EXPECT_LT(RelativeError(actual.out, expected.out), 5e-3) << shape;
      EXPECT_LT(LargestError(actual.lse, expected.lse), 2e-3) << shape;
    }
  }
}

}  // namespace
}  // namespace spotd::kernels
