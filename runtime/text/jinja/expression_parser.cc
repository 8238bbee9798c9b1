#include "runtime/text/jinja/expression_parser.h"

#include <algorithm>

#include "kernels/core/status.h"

namespace spotd::text::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxNesting =
    48;  // of parentheses and the like; each takes a dozen stack frames here
constexpr int kMaxLinks =
    400;  // operators and calls side by side in one expression: the tree is as deep as that
constexpr size_t kMaxItems = 4096;

}  // namespace

class ExpressionParser::Level {
 public:
  explicit Level(int* depth) : depth_(depth) { ++*depth_; }
  ~Level() { --*depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int* depth_;
};

ExpressionPtr ExpressionParser::Make(Kind kind, const Position& at) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->at = at;
  return expression;
}

absl::Status ExpressionParser::CountLink() {
  if (++links_ <= kMaxLinks) return absl::OkStatus();
  return ErrorAt(tokens_.Peek().at, "an expression is too long");
}

ExpressionParser::Result ExpressionParser::ParseExpression() {
  const Level level(&depth_);
  if (depth_ > kMaxNesting) return ErrorAt(tokens_.Peek().at, "expressions are nested too deeply");
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
  while (tokens_.Peek().IsName("if")) {
    SPOTD_RETURN_IF_ERROR(CountLink());
    auto conditional = Make(Kind::kConditional, tokens_.Next().at);
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
    ExpressionPtr otherwise;
    if (tokens_.SkipName("else")) {
      SPOTD_ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    conditional->operands.push_back(std::move(condition));
    conditional->operands.push_back(std::move(value));
    conditional->operands.push_back(std::move(otherwise));
    value = std::move(conditional);
  }
  return value;
}

ExpressionParser::Result ExpressionParser::ParseExpressionNoCondition() {
  return ParseOr();
}

ExpressionParser::Result ExpressionParser::ParseTuple() {
  const Position begin = tokens_.Peek().at;
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr first, ParseExpression());
  if (!tokens_.Peek().IsOperator(",")) return first;
  auto tuple = Make(Kind::kTuple, begin);
  tuple->operands.push_back(std::move(first));
  while (tokens_.SkipOperator(",")) {
    const Token& next = tokens_.Peek();
    if (next.kind == Token::Kind::kBlockEnd || next.kind == Token::Kind::kVariableEnd ||
        next.IsOperator(")")) {
      break;
    }
    if (tuple->operands.size() == kMaxItems) return ErrorAt(next.at, "too many items");
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
    tuple->operands.push_back(std::move(item));
  }
  return tuple;
}

ExpressionParser::Result ExpressionParser::ParseLeft(
    std::initializer_list<std::string_view> operators, Result (ExpressionParser::*operand)()) {
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*operand)());
  while (true) {
    const Token& token = tokens_.Peek();
    const bool here = token.kind == Token::Kind::kOperator &&
                      std::find(operators.begin(), operators.end(), token.text) != operators.end();
    if (!here) return left;
    SPOTD_RETURN_IF_ERROR(CountLink());
    auto binary = Make(Kind::kBinary, token.at);
    binary->name = tokens_.Next().text;
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr right, (this->*operand)());
    binary->operands.push_back(std::move(left));
    binary->operands.push_back(std::move(right));
    left = std::move(binary);
  }
}

ExpressionParser::Result ExpressionParser::ParseOr() {
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (tokens_.Peek().IsName("or")) {
    SPOTD_RETURN_IF_ERROR(CountLink());
    auto either = Make(Kind::kOr, tokens_.Next().at);
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    either->operands.push_back(std::move(left));
    either->operands.push_back(std::move(right));
    left = std::move(either);
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseAnd() {
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (tokens_.Peek().IsName("and")) {
    SPOTD_RETURN_IF_ERROR(CountLink());
    auto both = Make(Kind::kAnd, tokens_.Next().at);
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    both->operands.push_back(std::move(left));
    both->operands.push_back(std::move(right));
    left = std::move(both);
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseNot() {
  if (!tokens_.Peek().IsName("not")) return ParseCompare();
  const Level level(&depth_);
  if (depth_ > kMaxNesting) return ErrorAt(tokens_.Peek().at, "expressions are nested too deeply");
  auto negation = Make(Kind::kNot, tokens_.Next().at);
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseNot());
  negation->operands.push_back(std::move(operand));
  return negation;
}

std::string ExpressionParser::TakeComparison() {
  const Token& token = tokens_.Peek();
  constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
  const bool is_operator = token.kind == Token::Kind::kOperator &&
                           std::find(std::begin(kComparisons), std::end(kComparisons),
                                     token.text) != std::end(kComparisons);
  if (is_operator || token.IsName("in")) return tokens_.Next().text;
  if (!token.IsName("not") || !tokens_.Peek(1).IsName("in")) return "";
  tokens_.Next();
  tokens_.Next();
  return "not in";
}

ExpressionParser::Result ExpressionParser::ParseCompare() {
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr first, ParseSum());
  const Position at = tokens_.Peek().at;
  std::string comparison = TakeComparison();
  if (comparison.empty()) return first;
  auto compare = Make(Kind::kCompare, at);
  compare->operands.push_back(std::move(first));
  while (!comparison.empty()) {
    SPOTD_RETURN_IF_ERROR(CountLink());
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr next, ParseSum());
    compare->names.push_back(std::move(comparison));
    compare->operands.push_back(std::move(next));
    comparison = TakeComparison();
  }
  return compare;
}

ExpressionParser::Result ExpressionParser::ParseSum() {
  return ParseLeft({"+", "-"}, &ExpressionParser::ParseConcat);
}

ExpressionParser::Result ExpressionParser::ParseConcat() {
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr first, ParseProduct());
  if (!tokens_.Peek().IsOperator("~")) return first;
  auto concat = Make(Kind::kConcat, tokens_.Peek().at);
  concat->operands.push_back(std::move(first));
  while (tokens_.SkipOperator("~")) {
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr next, ParseProduct());
    concat->operands.push_back(std::move(next));
  }
  return concat;
}

ExpressionParser::Result ExpressionParser::ParseProduct() {
  return ParseLeft({"*", "/", "//", "%"}, &ExpressionParser::ParsePower);
}

ExpressionParser::Result ExpressionParser::ParsePower() {
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr base, ParseUnary(/*with_filters=*/true));
  while (tokens_.Peek().IsOperator("**")) {
    SPOTD_RETURN_IF_ERROR(CountLink());
    auto power = Make(Kind::kBinary, tokens_.Peek().at);
    power->name = tokens_.Next().text;
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr exponent, ParseUnary(/*with_filters=*/true));
    power->operands.push_back(std::move(base));
    power->operands.push_back(std::move(exponent));
    base = std::move(power);
  }
  return base;
}

ExpressionParser::Result ExpressionParser::ParseUnary(bool with_filters) {
  const Level level(&depth_);
  if (depth_ > kMaxNesting) return ErrorAt(tokens_.Peek().at, "expressions are nested too deeply");
  ExpressionPtr expression;
  if (tokens_.Peek().IsOperator("-") || tokens_.Peek().IsOperator("+")) {
    const bool negative = tokens_.Peek().IsOperator("-");
    expression = Make(negative ? Kind::kNegative : Kind::kPositive, tokens_.Next().at);
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseUnary(/*with_filters=*/false));
    expression->operands.push_back(std::move(operand));
  } else {
    SPOTD_ASSIGN_OR_RETURN(expression, ParsePrimary());
  }
  SPOTD_ASSIGN_OR_RETURN(expression, ParsePostfix(std::move(expression)));
  return with_filters ? ParseFilters(std::move(expression)) : Result(std::move(expression));
}

ExpressionParser::Result ExpressionParser::ParsePrimary() {
  const Token& token = tokens_.Peek();
  auto literal = Make(Kind::kLiteral, token.at);
  switch (token.kind) {
    case Token::Kind::kName:
      return ParseName();
    case Token::Kind::kString: {
      std::string text;  // strings side by side are one
      while (tokens_.Peek().kind == Token::Kind::kString) text += tokens_.Next().text;
      literal->literal = Value::String(std::move(text));
      return literal;
    }
    case Token::Kind::kInt:
      literal->literal = Value::Int(tokens_.Next().int_value);
      return literal;
    case Token::Kind::kFloat:
      literal->literal = Value::Float(tokens_.Next().float_value);
      return literal;
    default:
      break;
  }
  if (token.IsOperator("(")) return ParseParenthesis();
  if (token.IsOperator("[")) return ParseList();
  if (token.IsOperator("{")) return ParseDict();
  return ErrorAt(token.at, Concat("a value expected, found ", Describe(token)));
}

ExpressionParser::Result ExpressionParser::ParseName() {
  const Token& token = tokens_.Next();
  auto expression = Make(Kind::kLiteral, token.at);
  if (token.text == "true" || token.text == "True") {
    expression->literal = Value::Bool(true);
  } else if (token.text == "false" || token.text == "False") {
    expression->literal = Value::Bool(false);
  } else if (token.text != "none" && token.text != "None") {
    expression->kind = Kind::kName;
    expression->name = token.text;
  }
  return expression;
}

ExpressionParser::Result ExpressionParser::ParseParenthesis() {
  const Position begin = tokens_.Next().at;
  if (tokens_.SkipOperator(")")) return Make(Kind::kTuple, begin);
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr inner, ParseTuple());
  SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
  return inner;
}

ExpressionParser::Result ExpressionParser::ParseList() {
  auto list = Make(Kind::kList, tokens_.Next().at);
  while (!tokens_.SkipOperator("]")) {
    if (!list->operands.empty()) SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (tokens_.SkipOperator("]")) break;
    if (list->operands.size() == kMaxItems) return ErrorAt(list->at, "too many items");
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
    list->operands.push_back(std::move(item));
  }
  return list;
}

ExpressionParser::Result ExpressionParser::ParseDict() {
  auto dict = Make(Kind::kDict, tokens_.Next().at);
  while (!tokens_.SkipOperator("}")) {
    if (!dict->operands.empty()) SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (tokens_.SkipOperator("}")) break;
    if (dict->operands.size() >= 2 * kMaxDictSize) return ErrorAt(dict->at, "too many items");
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
    SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    dict->operands.push_back(std::move(key));
    dict->operands.push_back(std::move(value));
  }
  return dict;
}

ExpressionParser::Result ExpressionParser::ParsePostfix(ExpressionPtr expression) {
  while (true) {
    const Token& token = tokens_.Peek();
    if (token.IsOperator(".")) {
      SPOTD_ASSIGN_OR_RETURN(expression, ParseDot(std::move(expression)));
    } else if (token.IsOperator("[")) {
      SPOTD_ASSIGN_OR_RETURN(expression, ParseSubscript(std::move(expression)));
    } else if (token.IsOperator("(")) {
      SPOTD_ASSIGN_OR_RETURN(expression, ParseCall(std::move(expression)));
    } else {
      return expression;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseDot(ExpressionPtr object) {
  SPOTD_RETURN_IF_ERROR(CountLink());
  auto member = Make(Kind::kAttribute, tokens_.Next().at);
  const Token& token = tokens_.Next();
  if (token.kind == Token::Kind::kInt) {  // x.0 is x[0]
    member->kind = Kind::kItem;
    auto index = Make(Kind::kLiteral, token.at);
    index->literal = Value::Int(token.int_value);
    member->operands.push_back(std::move(object));
    member->operands.push_back(std::move(index));
    return member;
  }
  if (token.kind != Token::Kind::kName) {
    return ErrorAt(token.at, Concat("a name expected after \".\", found ", Describe(token)));
  }
  member->name = token.text;
  member->operands.push_back(std::move(object));
  return member;
}

ExpressionParser::Result ExpressionParser::ParseSubscript(ExpressionPtr object) {
  SPOTD_RETURN_IF_ERROR(CountLink());
  auto item = Make(Kind::kItem, tokens_.Next().at);
  item->operands.push_back(std::move(object));
  const auto at_separator = [this] {
    return tokens_.Peek().IsOperator(":") || tokens_.Peek().IsOperator("]");
  };
  while (true) {
    ExpressionPtr part;
    if (!at_separator()) {
      SPOTD_ASSIGN_OR_RETURN(part, ParseTuple());
    }
    item->operands.push_back(std::move(part));
    if (item->operands.size() == 4 || !tokens_.SkipOperator(":")) break;
    item->kind = Kind::kSlice;
  }
  SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator("]"));
  if (item->kind == Kind::kSlice) {
    item->operands.resize(4);
  } else if (item->operands[1] == nullptr) {
    return ErrorAt(item->at, "a subscript is empty");
  }
  return item;
}

ExpressionParser::Result ExpressionParser::ParseFilters(ExpressionPtr expression) {
  while (true) {
    if (tokens_.Peek().IsOperator("|")) {
      SPOTD_ASSIGN_OR_RETURN(expression, ParseFilter(std::move(expression)));
    } else if (tokens_.Peek().IsName("is")) {
      SPOTD_ASSIGN_OR_RETURN(expression, ParseTest(std::move(expression)));
    } else if (tokens_.Peek().IsOperator("(")) {
      SPOTD_ASSIGN_OR_RETURN(expression, ParseCall(std::move(expression)));
    } else {
      return expression;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseFilter(ExpressionPtr value) {
  SPOTD_RETURN_IF_ERROR(CountLink());
  auto filter = Make(Kind::kFilter, tokens_.Next().at);
  SPOTD_ASSIGN_OR_RETURN(filter->name, tokens_.ExpectName());
  filter->operands.push_back(std::move(value));
  if (tokens_.Peek().IsOperator("(")) SPOTD_RETURN_IF_ERROR(ParseArguments(filter.get()));
  return filter;
}

ExpressionParser::Result ExpressionParser::ParseTest(ExpressionPtr value) {
  SPOTD_RETURN_IF_ERROR(CountLink());
  auto test = Make(Kind::kTest, tokens_.Next().at);
  const bool negated = tokens_.SkipName("not");
  SPOTD_ASSIGN_OR_RETURN(test->name, tokens_.ExpectName());
  test->operands.push_back(std::move(value));
  const Token& next = tokens_.Peek();
  const bool literal = next.kind == Token::Kind::kString || next.kind == Token::Kind::kInt ||
                       next.kind == Token::Kind::kFloat || next.IsOperator("[") ||
                       next.IsOperator("{");
  constexpr std::string_view kAfterTest[] = {"else", "or", "and", "is", "if", "in", "not"};
  const bool name =
      next.kind == Token::Kind::kName &&
      std::find(std::begin(kAfterTest), std::end(kAfterTest), next.text) == std::end(kAfterTest);
  if (next.IsOperator("(")) {
    SPOTD_RETURN_IF_ERROR(ParseArguments(test.get()));
  } else if (literal || name) {  // x is divisibleby 3
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    SPOTD_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->arguments.push_back(std::move(argument));
  }
  if (!negated) return test;
  auto negation = Make(Kind::kNot, test->at);
  negation->operands.push_back(std::move(test));
  return negation;
}

ExpressionParser::Result ExpressionParser::ParseCall(ExpressionPtr callee) {
  SPOTD_RETURN_IF_ERROR(CountLink());
  auto call = Make(Kind::kCall, tokens_.Peek().at);
  call->operands.push_back(std::move(callee));
  SPOTD_RETURN_IF_ERROR(ParseArguments(call.get()));
  return call;
}

absl::Status ExpressionParser::ParseArguments(Expression* call) {
  SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  bool first = true;
  while (!tokens_.SkipOperator(")")) {
    if (!first) SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (tokens_.SkipOperator(")")) break;
    first = false;
    SPOTD_RETURN_IF_ERROR(ParseArgument(call));
  }
  return absl::OkStatus();
}

absl::Status ExpressionParser::ParseArgument(Expression* call) {
  const Position at = tokens_.Peek().at;
  if (tokens_.Peek().IsOperator("*") || tokens_.Peek().IsOperator("**")) {
    return ErrorAt(at, "unpacked arguments are not supported");
  }
  if (call->arguments.size() + call->named_arguments.size() == kMaxDictSize) {
    return ErrorAt(at, "too many arguments");
  }
  const bool named = tokens_.Peek().kind == Token::Kind::kName && tokens_.Peek(1).IsOperator("=");
  std::string name;
  if (named) {
    name = tokens_.Next().text;
    tokens_.Next();
  } else if (!call->named_arguments.empty()) {
    return ErrorAt(at, "an argument without name follows a named one");
  }
  SPOTD_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
  if (named) {
    call->named_arguments.emplace_back(std::move(name), std::move(value));
  } else {
    call->arguments.push_back(std::move(value));
  }
  return absl::OkStatus();
}

}  // namespace spotd::text::jinja
