// Files that an operator writes: configuration, tokens, certificates.
#pragma once

#include <cstddef>
#include <fstream>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/core/status.h"

namespace spotd::server {

// Bytes; a path that names something else by mistake must not fill the memory.
inline constexpr size_t kLargestSmallFile = size_t{16} << 20;

// The whole of it. INVALID_ARGUMENT when it cannot be read or is larger than kLargestSmallFile.
inline absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char piece[4096];
  while (file.read(piece, sizeof(piece)), file.gcount() > 0) {
    text.append(piece, static_cast<size_t>(file.gcount()));
    if (text.size() > kLargestSmallFile) {
      return InvalidArgument(path, " is larger than ", kLargestSmallFile, " bytes");
    }
  }
  if (!file.eof() || text.empty()) return InvalidArgument("cannot read ", path);
  return text;
}

}  // namespace spotd::server
