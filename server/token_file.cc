#include "server/token_file.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::server {
namespace {

bool IsAlphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool ParseHash(const std::string& hex, std::array<uint8_t, 32>* out) {
  if (hex.size() != 2 * out->size()) return false;
  for (size_t i = 0; i < out->size(); ++i) {
    const int high = HexDigit(hex[2 * i]);
    const int low = HexDigit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    (*out)[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

}  // namespace

bool IsTenantName(std::string_view name) {
  if (name.empty() || name.size() > 63 || !IsAlphanumeric(name[0])) return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return IsAlphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

absl::StatusOr<TokenFile> TokenFile::Parse(std::string_view text, std::string_view path) {
  TokenFile tokens;
  std::istringstream lines{std::string(text)};
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::istringstream words(line);
    std::string hash, tenant, more;
    if (!(words >> hash) || hash[0] == '#') continue;
    Entry entry;
    if (!ParseHash(hash, &entry.hash)) {
      return InvalidArgument(path, ":", number, ": does not start with 64 hex digits, the SHA-256 ",
                             "of a token");
    }
    if (!(words >> tenant) || !IsTenantName(tenant) || words >> more) {
      return InvalidArgument(path, ":", number, ": after the hash stands one tenant, 1 to 63 ",
                             "letters, digits, '.', '_' or '-'");
    }
    for (const Entry& other : tokens.entries_) {
      if (other.hash == entry.hash) {
        return InvalidArgument(path, ":", number, ": the same token stands above");
      }
    }
    if (tokens.entries_.size() == kMaxTokens) {
      return InvalidArgument(path, ": more than ", kMaxTokens, " tokens");
    }
    entry.tenant = std::move(tenant);
    tokens.entries_.push_back(std::move(entry));
  }
  if (tokens.entries_.empty()) return InvalidArgument(path, ": holds no token");
  return tokens;
}

std::optional<std::string> TokenFile::TenantOf(std::string_view token) const {
  Hash hash;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), hash.data());
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.hash.data(), hash.data(), hash.size()) == 0) found = &entry;
  }
  if (found == nullptr) return std::nullopt;
  return found->tenant;
}

}  // namespace spotd::server
