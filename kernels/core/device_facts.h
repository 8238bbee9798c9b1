// What must be true of a GPU before it is used, decided from plain facts so that it can be tested
// where there is none.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"

namespace spotd::kernels {

struct DeviceFacts {
  int driver = 0;   // CUDA version that the driver supports, 13020 for 13.2; 0: no driver
  int runtime = 0;  // CUDA version that the program was built with
  int devices = 0;
  std::string why_none;  // why there is no device, where the driver says
  // Of the device that is to be used.
  std::string name;
  int capability_major = 0;
  int capability_minor = 0;
  size_t total_bytes = 0;
  size_t free_bytes = 0;
};

// Memory without which a device is not opened: what the driver, the libraries and the backend take
// before there is a model.
inline constexpr size_t kLeastDeviceBytes = size_t{1} << 30;

// FAILED_PRECONDITION or (memory) RESOURCE_EXHAUSTED, with the figure that does not fit. Facts of
// the device are looked at only when driver and count are good.
absl::Status CheckDevice(const DeviceFacts& facts);

// "15.3 GiB", rounded down.
std::string Gibibytes(size_t bytes);

}  // namespace spotd::kernels
