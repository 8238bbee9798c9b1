#include "runtime/text/jinja/token_stream.h"

#include "kernels/core/status.h"

namespace spotd::text::jinja {

std::string Describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kText:
      return "text";
    case Token::Kind::kBlockBegin:
      return "\"{%\"";
    case Token::Kind::kBlockEnd:
      return "\"%}\"";
    case Token::Kind::kVariableBegin:
      return "\"{{\"";
    case Token::Kind::kVariableEnd:
      return "\"}}\"";
    case Token::Kind::kString:
      return "a string";
    case Token::Kind::kInt:
    case Token::Kind::kFloat:
      return "a number";
    case Token::Kind::kEnd:
      return "the end of the template";
    default:
      return Concat("\"", token.text, "\"");
  }
}

bool TokenStream::SkipOperator(std::string_view op) {
  const bool here = Peek().IsOperator(op);
  if (here) Next();
  return here;
}

bool TokenStream::SkipName(std::string_view name) {
  const bool here = Peek().IsName(name);
  if (here) Next();
  return here;
}

absl::Status TokenStream::ExpectOperator(std::string_view op) {
  if (SkipOperator(op)) return absl::OkStatus();
  return ErrorAt(Peek().at, Concat("\"", op, "\" expected, found ", Describe(Peek())));
}

absl::Status TokenStream::Expect(Token::Kind kind, std::string_view what) {
  if (Peek().kind != kind) {
    return ErrorAt(Peek().at, Concat(what, " expected, found ", Describe(Peek())));
  }
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::string> TokenStream::ExpectName() {
  const std::string name = Peek().text;
  SPOTD_RETURN_IF_ERROR(Expect(Token::Kind::kName, "a name"));
  return name;
}

}  // namespace spotd::text::jinja
