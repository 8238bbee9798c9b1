// UTF-8, byte by byte: validation, decoding, and the replacement of broken bytes by U+FFFD.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace spotd::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What begins a string of bytes.
struct Utf8Step {
  enum class Kind {
    kCharacter,  // `length` bytes are one character
    kBroken,  // `length` bytes can never be part of a character: one replacement character stands
              // for them
    kIncomplete,  // all bytes of the string are the beginning of a character
  };
  Kind kind = Kind::kBroken;
  size_t length = 0;
};

// `bytes` must not be empty. Broken bytes are grouped as the Unicode standard recommends
// (section 3.9, "maximal subparts"), which is what Rust's String::from_utf8_lossy does too.
Utf8Step NextUtf8(std::string_view bytes);

// Offset of the first byte that is not part of a character; nothing when all is well.
std::optional<size_t> FirstInvalidUtf8(std::string_view bytes);

// Appends `bytes` with broken bytes replaced. With `final` false, an incomplete character at the
// end is left out. Returns how many bytes were consumed.
size_t AppendLossyUtf8(std::string_view bytes, bool final, std::string* out);

// The character at the front of valid, non-empty UTF-8; `length` gets its size in bytes.
uint32_t DecodeUtf8(const char* text, size_t* length);

// `code_point` must be a Unicode scalar value.
void AppendUtf8(uint32_t code_point, std::string* out);

}  // namespace spotd::text
