// Whole files into memory.
#pragma once

#include <cstddef>
#include <fstream>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/core/status.h"

namespace spotd {

// The bytes of a file. INVALID_ARGUMENT, naming it, when it cannot be read (a directory cannot) or
// has more than `most` bytes.
inline absl::StatusOr<std::string> ReadFile(const std::string& path,
                                            size_t most = std::numeric_limits<size_t>::max()) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char piece[4096];
  while (file.read(piece, sizeof(piece)), file.gcount() > 0) {
    text.append(piece, static_cast<size_t>(file.gcount()));
    if (text.size() > most) return InvalidArgument(path, " is larger than ", most, " bytes");
  }
  if (!file.eof()) return InvalidArgument("cannot read ", path);
  return text;
}

}  // namespace spotd
