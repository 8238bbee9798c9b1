// Files that an operator writes: configuration, tokens, certificates.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/core/read_file.h"
#include "kernels/core/status.h"

namespace spotd::server {

// Bytes; a path that names something else by mistake must not fill the memory.
inline constexpr size_t kLargestSmallFile = size_t{16} << 20;

// The whole of it. INVALID_ARGUMENT when it cannot be read, is empty or is larger than
// kLargestSmallFile.
inline absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  SPOTD_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kLargestSmallFile));
  if (text.empty()) return InvalidArgument("cannot read ", path);
  return text;
}

}  // namespace spotd::server
