// What a device's memory does not hold is refused at start, with the figures: on a host that says
// it were a GPU of a given size.
#include "server/device_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/forwarding_backend.h"
#include "server/model_loader.h"
#include "tests/server/test_model.h"

namespace spotd::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kGiB = size_t{1} << 30;

class PretendDevice : public kernels::ForwardingBackend {
 public:
  PretendDevice(size_t total, size_t free)
      : ForwardingBackend(*kernels::CreateCpuBackend(1)), memory_{total, free} {}
  std::string_view name() const override { return "cuda"; }
  size_t activation_bytes() const override {
    return counting_ ? 2 : ForwardingBackend::activation_bytes();
  }
  kernels::DeviceMemory memory() const override { return memory_; }
  // As a GPU holds weights; the model itself still runs on the host's type.
  void CountAsGpu() { counting_ = true; }

 private:
  kernels::DeviceMemory memory_;
  bool counting_ = false;
};

model::ModelConfig Qwen3_8b() {
  model::ModelConfig config;
  config.layers = 36;
  config.hidden = 4096;
  config.ffn_hidden = 12288;
  config.q_heads = 32;
  config.kv_heads = 8;
  config.head_dim = 128;
  config.vocab = 151936;
  return config;
}

TEST(DeviceFitTest, WeightsAreCountedAsTheDeviceHoldsThem) {
  PretendDevice device(80 * kGiB, 80 * kGiB);
  device.CountAsGpu();
  model::SelectorConfig selector;
  selector.dim = 128;
  // As loaded on a GPU: 16.38 GB, 16.57 GB with a selector (norms are some 1 MB of it).
  EXPECT_NEAR(static_cast<double>(DeviceWeightBytes(Qwen3_8b(), nullptr, device)), 16.38e9, 2e7);
  EXPECT_EQ(DeviceWeightBytes(Qwen3_8b(), &selector, device) -
                DeviceWeightBytes(Qwen3_8b(), nullptr, device),
            size_t{2} * 36 * 4096 * (4 * 128 + 128 + 4));
  selector.groups = 8;
  EXPECT_EQ(DeviceWeightBytes(Qwen3_8b(), &selector, device) -
                DeviceWeightBytes(Qwen3_8b(), nullptr, device),
            size_t{2} * 36 * 4096 * (4 * 128 + 128 + 8 * 4));
}

TEST(DeviceFitTest, AModelTooLargeNamesTheFigures) {
  PretendDevice small(16 * kGiB, 15 * kGiB);
  small.CountAsGpu();
  const absl::Status status = CheckModelFits(Qwen3_8b(), nullptr, small);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("weights take 15.2 GiB"), HasSubstr("of 16.0 GiB"),
                    HasSubstr("15.0 GiB free")));
  PretendDevice large(24 * kGiB, 23 * kGiB);
  large.CountAsGpu();
  EXPECT_TRUE(CheckModelFits(Qwen3_8b(), nullptr, large).ok());
  EXPECT_TRUE(CheckModelFits(Qwen3_8b(), nullptr, PretendDevice(0, 0)).ok()) << "a host";
}

TEST(DeviceFitTest, KvTakesWhatIsAskedForOrMostOfWhatIsLeft) {
  const PretendDevice device(80 * kGiB, 61 * kGiB);
  EXPECT_EQ(*DeviceKvMemory(40 * kGiB, device), 40 * kGiB);
  EXPECT_EQ(*DeviceKvMemory(60 * kGiB, device), 60 * kGiB);
  EXPECT_EQ(*DeviceKvMemory(0, device), 54 * kGiB);
  const absl::Status status = DeviceKvMemory(70 * kGiB, device).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("--kv_memory: 70.0 GiB"), HasSubstr("61.0 GiB of 80.0 GiB")));
  EXPECT_FALSE(DeviceKvMemory(0, PretendDevice(8 * kGiB, kGiB / 2)).ok());
}

TEST(DeviceFitTest, AGpuThatIsNotUsedIsExplained) {
  EXPECT_EQ(WhyGpuIsUnused("/no/such/node"), "");
  if (kernels::CreateBackend({.name = "cuda"}).ok()) GTEST_SKIP() << "the GPU here is used";
  EXPECT_NE(WhyGpuIsUnused("/dev/null"), "") << "a node is there, and no usable GPU";
}

// The whole start, with the tiny model.
absl::StatusOr<std::unique_ptr<engine::Engine>> StartOn(size_t total, size_t free,
                                                        const std::string& kv_memory) {
  const std::string model = "--model=" + testing::TinyModel(128);
  const std::string kv = "--kv_memory=" + kv_memory;
  const std::vector<const char*> args = {model.c_str(), kv.c_str()};
  const auto config = ParseConfig(args, [](const char*) -> const char* { return nullptr; });
  EXPECT_TRUE(config.ok()) << config.status();
  return LoadEngine(*config, *config->DefaultPolicy(false), [&](const ServerConfig&) {
    return absl::StatusOr<std::unique_ptr<kernels::Backend>>(
        std::make_unique<PretendDevice>(total, free));
  });
}

TEST(DeviceFitTest, TheServerStartsWhereEverythingFits) {
  const auto engine = StartOn(4 * kGiB, 3 * kGiB, "64MiB");
  EXPECT_TRUE(engine.ok()) << engine.status();
}

TEST(DeviceFitTest, TheServerRefusesToStartWhereItDoesNot) {
  EXPECT_THAT(std::string(StartOn(4 * kGiB, kGiB / 4, "64MiB").status().message()),
              HasSubstr("the model does not fit"));
  EXPECT_THAT(std::string(StartOn(4 * kGiB, 3 * kGiB, "100GiB").status().message()),
              AllOf(HasSubstr("--kv_memory: 100.0 GiB of KV do not fit"), HasSubstr("3.0 GiB")));
}

}  // namespace
}  // namespace spotd::server
