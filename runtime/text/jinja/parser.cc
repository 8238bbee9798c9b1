#include "runtime/text/jinja/parser.h"

#include <initializer_list>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/text/jinja/expression_parser.h"
#include "runtime/text/jinja/token_stream.h"

namespace spotd::text::jinja {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;
constexpr int kMaxBlockNesting = 32;

using Kind = Statement::Kind;
using StatementPtr = std::unique_ptr<Statement>;
using Names = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  // Up to a tag named in `ends`, which stays to be read; with no ends, up to the end of the
  // template.
  absl::Status ParseBody(Names ends, Body* body);

 private:
  using Result = absl::StatusOr<StatementPtr>;

  Result ParseTag();
  Result ParseOutput();
  Result ParseIf(StatementPtr statement);
  Result ParseFor(StatementPtr statement);
  Result ParseSet(StatementPtr statement);
  Result ParseMacro(StatementPtr statement);
  Result ParseWith(StatementPtr statement);
  Result ParseGroup(StatementPtr statement);
  Result ParseLoopControl(StatementPtr statement, Kind kind);

  absl::Status ParseTargets(std::vector<std::string>* targets);
  absl::Status ParseParameters(MacroDefinition* macro);
  absl::Status EndTag() { return tokens_.Expect(Token::Kind::kBlockEnd, "\"%}\""); }
  // {% name %}
  absl::Status ParseEndOf(std::string_view name);
  absl::StatusOr<ExpressionPtr> ParseValue() { return ExpressionParser(&tokens_).ParseTuple(); }

  TokenStream tokens_;
  int depth_ = 0;
  int loops_ = 0;  // for statements around, inside the current macro
};

StatementPtr Make(Kind kind, const Position& at) {
  auto statement = std::make_unique<Statement>();
  statement->kind = kind;
  statement->at = at;
  return statement;
}

bool IsOneOf(const Token& token, Names names) {
  for (const std::string_view name : names) {
    if (token.IsName(name)) return true;
  }
  return false;
}

absl::Status Parser::ParseBody(Names ends, Body* body) {
  if (++depth_ > kMaxBlockNesting)
    return ErrorAt(tokens_.Peek().at, "blocks are nested too deeply");
  while (true) {
    const Token& token = tokens_.Peek();
    Result statement;
    if (token.kind == Token::Kind::kEnd) {
      if (ends.size() == 0) break;
      return ErrorAt(token.at, Concat("the tag \"", *(ends.end() - 1), "\" is missing"));
    }
    if (token.kind == Token::Kind::kText) {
      statement = Make(Kind::kText, token.at);
      (*statement)->text = tokens_.Next().text;
    } else if (token.kind == Token::Kind::kVariableBegin) {
      statement = ParseOutput();
    } else if (IsOneOf(tokens_.Peek(1), ends)) {
      break;
    } else {
      statement = ParseTag();
    }
    if (!statement.ok()) return statement.status();
    body->push_back(*std::move(statement));
  }
  --depth_;
  return absl::OkStatus();
}

Parser::Result Parser::ParseOutput() {
  auto statement = Make(Kind::kOutput, tokens_.Next().at);
  SPOTD_ASSIGN_OR_RETURN(statement->value, ParseValue());
  SPOTD_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kVariableEnd, "\"}}\""));
  return statement;
}

Parser::Result Parser::ParseTag() {
  tokens_.Next();
  const Token tag = tokens_.Peek();
  SPOTD_ASSIGN_OR_RETURN(const std::string name, tokens_.ExpectName());
  if (name == "if") return ParseIf(Make(Kind::kIf, tag.at));
  if (name == "for") return ParseFor(Make(Kind::kFor, tag.at));
  if (name == "set") return ParseSet(Make(Kind::kSet, tag.at));
  if (name == "macro") return ParseMacro(Make(Kind::kMacro, tag.at));
  if (name == "with") return ParseWith(Make(Kind::kWith, tag.at));
  if (name == "generation") return ParseGroup(Make(Kind::kGroup, tag.at));
  if (name == "break") return ParseLoopControl(Make(Kind::kBreak, tag.at), Kind::kBreak);
  if (name == "continue") return ParseLoopControl(Make(Kind::kContinue, tag.at), Kind::kContinue);
  return ErrorAt(tag.at, Concat("the tag \"", name, "\" is not supported here"));
}

absl::Status Parser::ParseEndOf(std::string_view name) {
  SPOTD_RETURN_IF_ERROR(tokens_.Expect(Token::Kind::kBlockBegin, "\"{%\""));
  if (!tokens_.SkipName(name)) {
    return ErrorAt(tokens_.Peek().at,
                   Concat("\"", name, "\" expected, found ", Describe(tokens_.Peek())));
  }
  return EndTag();
}

Parser::Result Parser::ParseIf(StatementPtr statement) {
  while (true) {  // at a condition
    Statement::Branch branch;
    SPOTD_ASSIGN_OR_RETURN(branch.condition, ParseValue());
    SPOTD_RETURN_IF_ERROR(EndTag());
    SPOTD_RETURN_IF_ERROR(ParseBody({"elif", "else", "endif"}, &branch.body));
    statement->branches.push_back(std::move(branch));
    tokens_.Next();
    if (!tokens_.SkipName("elif")) break;
  }
  if (tokens_.SkipName("else")) {
    SPOTD_RETURN_IF_ERROR(EndTag());
    Statement::Branch branch;
    SPOTD_RETURN_IF_ERROR(ParseBody({"endif"}, &branch.body));
    statement->branches.push_back(std::move(branch));
    tokens_.Next();
  }
  tokens_.SkipName("endif");
  SPOTD_RETURN_IF_ERROR(EndTag());
  return statement;
}

absl::Status Parser::ParseTargets(std::vector<std::string>* targets) {
  const bool parenthesized = tokens_.SkipOperator("(");
  do {
    const Token& token = tokens_.Peek();
    if (!targets->empty() && token.kind != Token::Kind::kName) break;  // a comma at the end
    SPOTD_ASSIGN_OR_RETURN(std::string name, tokens_.ExpectName());
    targets->push_back(std::move(name));
    if (targets->size() > kMaxDictSize) return ErrorAt(token.at, "too many names");
  } while (tokens_.SkipOperator(","));
  return parenthesized ? tokens_.ExpectOperator(")") : absl::OkStatus();
}

Parser::Result Parser::ParseFor(StatementPtr statement) {
  SPOTD_RETURN_IF_ERROR(ParseTargets(&statement->targets));
  if (!tokens_.SkipName("in")) {
    return ErrorAt(tokens_.Peek().at, Concat("\"in\" expected, found ", Describe(tokens_.Peek())));
  }
  SPOTD_ASSIGN_OR_RETURN(statement->value, ExpressionParser(&tokens_).ParseExpressionNoCondition());
  if (tokens_.SkipName("if")) {
    SPOTD_ASSIGN_OR_RETURN(statement->condition, ExpressionParser(&tokens_).ParseExpression());
  }
  if (tokens_.Peek().IsName("recursive")) {
    return ErrorAt(tokens_.Peek().at, "recursive loops are not supported");
  }
  SPOTD_RETURN_IF_ERROR(EndTag());
  ++loops_;
  SPOTD_RETURN_IF_ERROR(ParseBody({"else", "endfor"}, &statement->body));
  --loops_;
  tokens_.Next();
  if (tokens_.SkipName("else")) {
    SPOTD_RETURN_IF_ERROR(EndTag());
    SPOTD_RETURN_IF_ERROR(ParseBody({"endfor"}, &statement->else_body));
    tokens_.Next();
  }
  tokens_.SkipName("endfor");
  SPOTD_RETURN_IF_ERROR(EndTag());
  return statement;
}

Parser::Result Parser::ParseSet(StatementPtr statement) {
  SPOTD_RETURN_IF_ERROR(ParseTargets(&statement->targets));
  if (statement->targets.size() == 1 && tokens_.SkipOperator(".")) {
    SPOTD_ASSIGN_OR_RETURN(statement->attribute, tokens_.ExpectName());
  }
  if (tokens_.SkipOperator("=")) {
    SPOTD_ASSIGN_OR_RETURN(statement->value, ParseValue());
    SPOTD_RETURN_IF_ERROR(EndTag());
    return statement;
  }
  statement->kind = Kind::kSetBlock;
  if (statement->targets.size() != 1) return ErrorAt(statement->at, "a set block has one name");
  auto text = std::make_unique<Expression>();
  text->kind =
      Expression::Kind::kName;  // the interpreter defines the empty name as the block's text
  text->at = statement->at;
  SPOTD_ASSIGN_OR_RETURN(statement->value,
                         ExpressionParser(&tokens_).ParseFilters(std::move(text)));
  SPOTD_RETURN_IF_ERROR(EndTag());
  SPOTD_RETURN_IF_ERROR(ParseBody({"endset"}, &statement->body));
  SPOTD_RETURN_IF_ERROR(ParseEndOf("endset"));
  return statement;
}

absl::Status Parser::ParseParameters(MacroDefinition* macro) {
  SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  while (!tokens_.SkipOperator(")")) {
    if (!macro->parameters.empty()) SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    if (tokens_.SkipOperator(")")) break;
    if (macro->parameters.size() == kMaxDictSize)
      return ErrorAt(tokens_.Peek().at, "too many names");
    MacroDefinition::Parameter parameter;
    SPOTD_ASSIGN_OR_RETURN(parameter.name, tokens_.ExpectName());
    if (tokens_.SkipOperator("=")) {
      SPOTD_ASSIGN_OR_RETURN(parameter.fallback, ExpressionParser(&tokens_).ParseExpression());
    }
    macro->parameters.push_back(std::move(parameter));
  }
  return absl::OkStatus();
}

Parser::Result Parser::ParseMacro(StatementPtr statement) {
  SPOTD_ASSIGN_OR_RETURN(statement->macro.name, tokens_.ExpectName());
  SPOTD_RETURN_IF_ERROR(ParseParameters(&statement->macro));
  SPOTD_RETURN_IF_ERROR(EndTag());
  const int loops = std::exchange(loops_, 0);
  SPOTD_RETURN_IF_ERROR(ParseBody({"endmacro"}, &statement->macro.body));
  loops_ = loops;
  SPOTD_RETURN_IF_ERROR(ParseEndOf("endmacro"));
  return statement;
}

Parser::Result Parser::ParseWith(StatementPtr statement) {
  while (tokens_.Peek().kind != Token::Kind::kBlockEnd) {
    if (!statement->assignments.empty()) SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
    SPOTD_ASSIGN_OR_RETURN(std::string name, tokens_.ExpectName());
    SPOTD_RETURN_IF_ERROR(tokens_.ExpectOperator("="));
    SPOTD_ASSIGN_OR_RETURN(ExpressionPtr value, ExpressionParser(&tokens_).ParseExpression());
    statement->assignments.emplace_back(std::move(name), std::move(value));
  }
  SPOTD_RETURN_IF_ERROR(EndTag());
  SPOTD_RETURN_IF_ERROR(ParseBody({"endwith"}, &statement->body));
  SPOTD_RETURN_IF_ERROR(ParseEndOf("endwith"));
  return statement;
}

// {% generation %} marks what the model wrote, for training; it renders as its body.
Parser::Result Parser::ParseGroup(StatementPtr statement) {
  SPOTD_RETURN_IF_ERROR(EndTag());
  SPOTD_RETURN_IF_ERROR(ParseBody({"endgeneration"}, &statement->body));
  SPOTD_RETURN_IF_ERROR(ParseEndOf("endgeneration"));
  return statement;
}

Parser::Result Parser::ParseLoopControl(StatementPtr statement, Kind kind) {
  statement->kind = kind;
  if (loops_ == 0) return ErrorAt(statement->at, "break and continue belong in a loop");
  SPOTD_RETURN_IF_ERROR(EndTag());
  return statement;
}

}  // namespace

absl::StatusOr<Body> Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) return InvalidArgument("the template is too large");
  SPOTD_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  Body body;
  SPOTD_RETURN_IF_ERROR(Parser(std::move(tokens)).ParseBody({}, &body));
  return body;
}

}  // namespace spotd::text::jinja
