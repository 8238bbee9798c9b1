// The byte-level alphabet of GPT-2's vocabulary: each of the 256 bytes is written as one printable
// character, so that a vocabulary of byte strings can be stored as text. Printable Latin-1 stands
// for itself; the others follow from U+0100.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace spotd::text {

// The character that stands for `byte`.
uint32_t AlphabetCharacter(uint8_t byte);

// The bytes that a token's text stands for; nothing when it holds a character outside the alphabet
// or is not UTF-8.
std::optional<std::string> AlphabetToBytes(std::string_view token);

}  // namespace spotd::text
