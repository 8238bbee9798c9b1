#include "tests/gpu/device.h"

namespace spotd::kernels {
namespace {

// A step is recorded once and replayed on new contents of the same memory.
TEST(StepTest, ReplaysSeeNewContents) {
  Buffer gate = Gpu().PutActs(RandomActs(256, 1));
  Buffer up = Gpu().PutActs(RandomActs(256, 2));
  Buffer out = Gpu().MakePoisonedActs(256);
  int issued = 0;
  for (uint32_t turn = 0; turn < 6; ++turn) {
    const std::vector<float> values = RandomActs(256, 100 + turn);
    Buffer fresh = Gpu().PutActs(values);
    Gpu()->Copy(up.data(), fresh.data(), 512);
    Gpu()->RunStep(7, [&] {
      ++issued;
      Gpu()->SwiGlu({gate.data(), up.data(), 1, 256, out.data()});
    });
    const std::vector<float> actual = Gpu().GetActs(out);
    Gpu()->SwiGlu({gate.data(), fresh.data(), 1, 256, out.data()});
    EXPECT_TRUE(SameBits(actual, Gpu().GetActs(out))) << turn;
  }
  EXPECT_LE(issued, 2);
}

// More keys than graphs are kept for: the oldest are forgotten, none is mixed up.
TEST(StepTest, ManyKeys) {
  constexpr uint64_t kKeys = 300;
  std::vector<int32_t> values(kKeys);
  for (size_t i = 0; i < kKeys; ++i) values[i] = static_cast<int32_t>(i) * 3 + 1;
  Buffer from = Gpu().Put(values);
  Buffer to = Gpu().Put(std::vector<int32_t>(kKeys, -1));
  for (int turn = 0; turn < 3; ++turn) {
    for (uint64_t key = 0; key < kKeys; ++key) {
      Gpu()->RunStep(1000 + key,
                     [&] { Gpu()->Copy(to.as<int32_t>() + key, from.as<int32_t>() + key, 4); });
    }
    EXPECT_EQ(Gpu().Get<int32_t>(to), values);
  }
}

}  // namespace
}  // namespace spotd::kernels
