// Parses expressions from a token stream, by Jinja's grammar and precedence.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/token_stream.h"

namespace spotd::text::jinja {

// Parses one expression; make a new one for the next.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  using Result = absl::StatusOr<ExpressionPtr>;
  Result ParseExpression();             // with inline if
  Result ParseExpressionNoCondition();  // without: what stands after `in` in a for statement
  Result ParseTuple();                  // one expression, or several with commas between
  // The filters after a set statement's target, applied to an expression that stands for the
  // block's text.
  Result ParseFilters(ExpressionPtr expression);

 private:
  // Counts one level of nesting for as long as it lives.
  class Level;

  Result ParseOr();
  Result ParseAnd();
  Result ParseNot();
  Result ParseCompare();
  Result ParseSum();
  Result ParseConcat();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool with_filters);
  Result ParsePrimary();
  Result ParseName();
  Result ParseParenthesis();
  Result ParseList();
  Result ParseDict();
  Result ParsePostfix(ExpressionPtr expression);
  Result ParseDot(ExpressionPtr object);
  Result ParseSubscript(ExpressionPtr object);
  Result ParseFilter(ExpressionPtr value);
  Result ParseTest(ExpressionPtr value);
  Result ParseCall(ExpressionPtr callee);
  absl::Status ParseArguments(Expression* call);
  absl::Status ParseArgument(Expression* call);
  // The operator at the front when it compares ("not in" is one), else "".
  std::string TakeComparison();

  // Parses operands with `operand` while one of `operators` stands between, grouping from the left.
  Result ParseLeft(std::initializer_list<std::string_view> operators,
                   Result (ExpressionParser::*operand)());

  ExpressionPtr Make(Expression::Kind kind, const Position& at) const;
  absl::Status CountLink();

  TokenStream& tokens_;
  int depth_ = 0;
  int links_ = 0;
};

}  // namespace spotd::text::jinja
