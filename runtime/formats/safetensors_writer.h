// Writes a safetensors file: to a temporary name beside it, synced, then renamed, so that a reader
// never sees half a file, a full disk leaves the old one in place, and of two programs that write
// the same file the later one's is there, whole.
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

// Whether `path` can be written now: it is no directory or device, and its folder takes files. To
// be asked before long work whose result goes there.
absl::Status CheckWritable(const std::string& path);

// Tensors are laid out in the order given; bytes of names and metadata that are not UTF-8 become
// U+FFFD. Errors name the path and the system's reason.
absl::Status WriteSafetensors(const std::string& path,
                              const std::vector<SafetensorsOutput>& tensors,
                              const std::map<std::string, std::string>& metadata);

// The bytes of such a file.
std::string SafetensorsBytes(const std::vector<SafetensorsOutput>& tensors,
                             const std::map<std::string, std::string>& metadata);

}  // namespace spotd::formats
