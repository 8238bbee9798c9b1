#include "runtime/text/byte_alphabet.h"

#include <array>

#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

constexpr uint32_t kFirstStandIn = 0x100;
constexpr uint32_t kStandIns = 68;  // how many bytes are not printable Latin-1

constexpr bool IsPrintable(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<uint16_t, 256> character{};
  std::array<int16_t, kFirstStandIn + kStandIns> byte{};  // by character; -1: not in the alphabet

  constexpr Alphabet() {
    for (auto& value : byte) value = -1;
    uint32_t stand_in = kFirstStandIn;
    for (uint32_t b = 0; b < 256; ++b) {
      character[b] = static_cast<uint16_t>(IsPrintable(b) ? b : stand_in++);
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

uint32_t AlphabetCharacter(uint8_t byte) {
  return kAlphabet.character[byte];
}

std::optional<std::string> AlphabetToBytes(std::string_view token) {
  if (FirstInvalidUtf8(token)) return std::nullopt;
  std::string bytes;
  bytes.reserve(token.size());
  size_t length = 0;
  for (size_t at = 0; at < token.size(); at += length) {
    const uint32_t character = DecodeUtf8(token.data() + at, &length);
    if (character >= kAlphabet.byte.size() || kAlphabet.byte[character] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte[character]));
  }
  return bytes;
}

}  // namespace spotd::text
