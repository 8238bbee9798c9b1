// Files that an operator writes: configuration, tokens, certificates.
#pragma once

#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/core/status.h"

namespace spotd::server {

// The whole of it. INVALID_ARGUMENT when it cannot be read.
inline absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return InvalidArgument("cannot read ", path);
  return text.str();
}

}  // namespace spotd::server
