// Cuts template source into text and the tokens inside {{ }}, {% %}, with the white-space rules
// that transformers sets: trim_blocks (the newline after a block tag goes) and lstrip_blocks (so
// does the indentation before one).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::text::jinja {

struct Position {
  int line = 1;    // from 1
  int column = 1;  // from 1, in bytes
};

struct Token {
  enum class Kind {
    kText,           // outside of tags; `text` is ready to be output
    kBlockBegin,     // {%
    kBlockEnd,       // %}
    kVariableBegin,  // {{
    kVariableEnd,    // }}
    kName,
    kString,  // `text` has its escapes resolved
    kInt,
    kFloat,
    kOperator,  // `text` is the operator, e.g. "==" or "|"
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  Position at;
  int64_t int_value = 0;
  double float_value = 0;

  bool IsOperator(std::string_view op) const { return kind == Kind::kOperator && text == op; }
  bool IsName(std::string_view name) const { return kind == Kind::kName && text == name; }
};

// INVALID_ARGUMENT with "line L, column C: reason".
absl::Status ErrorAt(const Position& at, const std::string& reason);

// The last token is kEnd. Errors are INVALID_ARGUMENT with a position.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace spotd::text::jinja
