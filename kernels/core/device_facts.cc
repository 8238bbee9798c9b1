#include "kernels/core/device_facts.h"

#include "kernels/core/status.h"

namespace spotd::kernels {
namespace {

std::string Version(int cuda) {
  return Concat(cuda / 1000, ".", cuda % 1000 / 10);
}

constexpr int kLeastCapabilityMajor = 8;

}  // namespace

std::string Gibibytes(size_t bytes) {
  const size_t tenths = (bytes >> 20) * 10 >> 10;
  return Concat(tenths / 10, ".", tenths % 10, " GiB");
}

absl::Status CheckDevice(const DeviceFacts& facts) {
  if (facts.driver == 0) return FailedPrecondition("no NVIDIA driver is installed");
  // A driver of the same major version runs every later minor release.
  if (facts.driver / 1000 < facts.runtime / 1000) {
    return FailedPrecondition("the NVIDIA driver is too old: it supports CUDA ",
                              Version(facts.driver), ", and this program needs ",
                              Version(facts.runtime / 1000 * 1000), " or later");
  }
  if (facts.devices == 0) {
    return FailedPrecondition("no usable GPU: ",
                              facts.why_none.empty() ? "none found" : facts.why_none);
  }
  if (facts.capability_major < kLeastCapabilityMajor) {
    return FailedPrecondition(facts.name, " has compute capability ", facts.capability_major, ".",
                              facts.capability_minor, "; ", kLeastCapabilityMajor,
                              ".0 or later is needed");
  }
  if (facts.free_bytes < kLeastDeviceBytes) {
    return absl::ResourceExhaustedError(Concat(
        facts.name, " has ", Gibibytes(facts.free_bytes), " of ", Gibibytes(facts.total_bytes),
        " free; at least ", Gibibytes(kLeastDeviceBytes), " is needed"));
  }
  return absl::OkStatus();
}

}  // namespace spotd::kernels
