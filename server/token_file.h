// Bearer tokens and whom they belong to, read from a file that holds only their hashes.
//
// One line a token: the SHA-256 of the token in hex, then the tenant. Empty lines and lines that
// start with '#' are skipped. A tenant may have several tokens; a token has one tenant.
//
// Immutable after Parse; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::server {

inline constexpr size_t kMaxTokens = 4096;

// 1 to 63 letters, digits, '.', '_' or '-', the first one a letter or a digit.
bool IsTenantName(std::string_view name);

class TokenFile {
 public:
  // `path` is for errors, which name the line and never quote it.
  static absl::StatusOr<TokenFile> Parse(std::string_view text, std::string_view path);

  // The tenant whose token this is. Compares with every hash in constant time, so that neither the
  // answer's time nor the order of the file tells how close a guess was.
  std::optional<std::string> TenantOf(std::string_view token) const;

  size_t size() const { return entries_.size(); }

 private:
  using Hash = std::array<uint8_t, 32>;
  struct Entry {
    Hash hash;
    std::string tenant;
  };

  std::vector<Entry> entries_;
};

}  // namespace spotd::server
