// Keeps control tokens that a user wrote in a message plain text, while those that the chat
// template writes count.
//
// Both end up in one rendered string. Protect puts a mark inside each control token spelled out in
// a content before the template sees it; Encode then knows which is which and takes the marks out.
//
// Thread-safe: immutable after construction.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace spotd::engine {

// The tokens as they stand in a rendering: bytes, and control tokens written out. Ids that the
// tokenizer does not know have no text.
std::string WrittenOut(const text::Tokenizer& tokenizer, std::span<const int32_t> tokens);

class SpecialText {
 public:
  explicit SpecialText(const text::Tokenizer* tokenizer);

  // `content` with a mark in each control token. The mark is a code point that is never a character
  // (U+FDD0); where the content has it already it is removed.
  std::string Protect(std::string_view content) const;
  // Tokens of a rendering of protected contents.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view rendered) const;

 private:
  // The longest control token that `text` starts with; empty when none.
  std::string_view MatchAt(std::string_view text) const;

  const text::Tokenizer* tokenizer_;
  std::array<std::vector<std::string>, 256> by_first_byte_;  // longest first
  size_t longest_ = 0;
};

}  // namespace spotd::engine
