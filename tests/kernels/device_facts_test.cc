#include "kernels/core/device_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace spotd::kernels {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

DeviceFacts Good() {
  return {.driver = 13020,
          .runtime = 13000,
          .devices = 1,
          .why_none = "",
          .name = "NVIDIA H100 80GB HBM3",
          .capability_major = 9,
          .capability_minor = 0,
          .total_bytes = size_t{79} << 30,
          .free_bytes = size_t{78} << 30};
}

std::string Refusal(const DeviceFacts& facts) {
  const absl::Status status = CheckDevice(facts);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  return std::string(status.message());
}

TEST(DeviceFactsTest, AGoodDevicePasses) {
  EXPECT_TRUE(CheckDevice(Good()).ok());
  DeviceFacts later = Good();
  later.driver = 14000;
  EXPECT_TRUE(CheckDevice(later).ok());
  DeviceFacts ampere = Good();
  ampere.capability_major = 8;
  EXPECT_TRUE(CheckDevice(ampere).ok());
}

TEST(DeviceFactsTest, NoDriver) {
  DeviceFacts facts = Good();
  facts.driver = 0;
  EXPECT_EQ(Refusal(facts), "no NVIDIA driver is installed");
}

TEST(DeviceFactsTest, ADriverTooOldNamesBothVersions) {
  DeviceFacts facts = Good();
  facts.driver = 12040;
  EXPECT_THAT(Refusal(facts), AllOf(HasSubstr("too old"), HasSubstr("12.4"), HasSubstr("13.0")));
}

TEST(DeviceFactsTest, NoDeviceSaysWhy) {
  DeviceFacts facts = Good();
  facts.devices = 0;
  EXPECT_EQ(Refusal(facts), "no usable GPU: none found");
  facts.why_none = "initialization error";
  EXPECT_EQ(Refusal(facts), "no usable GPU: initialization error");
}

TEST(DeviceFactsTest, ACapabilityTooLowNamesBoth) {
  DeviceFacts facts = Good();
  facts.name = "Tesla T4";
  facts.capability_major = 7;
  facts.capability_minor = 5;
  EXPECT_EQ(Refusal(facts), "Tesla T4 has compute capability 7.5; 8.0 or later is needed");
}

TEST(DeviceFactsTest, TooLittleMemorySaysHowMuch) {
  DeviceFacts facts = Good();
  facts.free_bytes = size_t{410} << 20;
  const absl::Status status = CheckDevice(facts);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "NVIDIA H100 80GB HBM3 has 0.4 GiB of 79.0 GiB free; at least 1.0 GiB is needed");
}

}  // namespace
}  // namespace spotd::kernels
