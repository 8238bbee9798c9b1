// The parsed template. Nodes are plain data made by the parser and read by the interpreter.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/lexer.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,    // literal
    kName,       // name
    kAttribute,  // operands[0] . name
    kItem,       // operands[0] [ operands[1] ]
    kSlice,   // operands[0] [ operands[1] : operands[2] : operands[3] ]; the last three may be null
    kCall,    // operands[0] ( arguments )
    kFilter,  // operands[0] | name ( arguments )
    kTest,    // operands[0] is name ( arguments )
    kNot,     // not operands[0]
    kNegative,     // - operands[0]
    kPositive,     // + operands[0]
    kBinary,       // operands[0] name operands[1]; name is + - * / // % **
    kConcat,       // operands joined by ~
    kCompare,      // operands[0] names[0] operands[1] names[1] operands[2] ...
    kAnd,          // operands[0] and operands[1]
    kOr,           // operands[0] or operands[1]
    kConditional,  // operands[1] if operands[0] else operands[2] (may be null)
    kList,         // [operands]
    kTuple,        // (operands)
    kDict,         // {operands[0]: operands[1], ...}
  };
  Kind kind;
  Position at;
  std::string name;
  Value literal;
  std::vector<ExpressionPtr> operands;
  std::vector<std::string> names;
  // Of a call, filter or test.
  std::vector<ExpressionPtr> arguments;
  std::vector<std::pair<std::string, ExpressionPtr>> named_arguments;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

// {% macro name(parameters) %}
struct MacroDefinition {
  struct Parameter {
    std::string name;
    ExpressionPtr fallback;  // null: undefined when not given
  };
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // {{ value }}
    kIf,        // branches; a null condition is the else branch
    kFor,       // for targets in value if condition: body, else_body
    kSet,       // targets = value; or ns.attribute = value with the namespace in targets[0]
    kSetBlock,  // targets[0] = body passed through value (filters on an empty name), which may be
                // null
    kMacro,     // macro
    kWith,      // assignments, then body in a scope of its own
    kGroup,     // body in the same scope
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  Kind kind;
  Position at;
  std::string text;
  ExpressionPtr value;
  ExpressionPtr condition;
  std::vector<std::string> targets;
  std::string attribute;
  std::vector<Branch> branches;
  std::vector<std::pair<std::string, ExpressionPtr>> assignments;
  Body body;
  Body else_body;
  MacroDefinition macro;
};

}  // namespace spotd::text::jinja
