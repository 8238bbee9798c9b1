// Writes a safetensors file: to a temporary name beside it, synced, then renamed, so that a reader
// never sees half a file and a full disk leaves the old one in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace spotd::formats {

struct SafetensorsOutput {
  std::string name;
  std::string type_name;  // as the format spells it: "F32", "BF16"
  std::vector<int64_t> shape;
  const void* data = nullptr;  // host memory; only read during the call
  size_t bytes = 0;
};

// Tensors are laid out in the order given. Errors name the path and the system's reason.
absl::Status WriteSafetensors(const std::string& path,
                              const std::vector<SafetensorsOutput>& tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace spotd::formats
