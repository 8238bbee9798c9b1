// Reading tokens one after the other.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/lexer.h"

namespace spotd::text::jinja {

// A position in the tokens of a template.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const {
    return tokens_[at_ + ahead < tokens_.size() ? at_ + ahead : tokens_.size() - 1];
  }
  const Token& Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  absl::Status ExpectOperator(std::string_view op);
  absl::Status Expect(Token::Kind kind, std::string_view what);
  absl::StatusOr<std::string> ExpectName();

 private:
  std::vector<Token> tokens_;  // ends with kEnd
  size_t at_ = 0;
};

// How the token reads in a message.
std::string Describe(const Token& token);

}  // namespace spotd::text::jinja
