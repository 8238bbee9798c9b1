#include "runtime/text/jinja/interpreter.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "kernels/core/status.h"
#include "runtime/text/jinja/arguments.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/functions.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/tests.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<Value>;

// Adds the position to an error of a function that knows none.
absl::Status At(const Position& at, const absl::Status& status) {
  return ErrorAt(at, std::string(status.message()));
}
Result At(const Position& at, Result result) {
  return result.ok() ? std::move(result) : Result(At(at, result.status()));
}
template <typename T>
absl::StatusOr<T> At(const Position& at, absl::StatusOr<T> result) {
  return result.ok() ? std::move(result) : absl::StatusOr<T>(At(at, result.status()));
}

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  explicit Interpreter(const RenderOptions& options)
      : options_(options), budget_(options.max_work) {}

  absl::StatusOr<Flow> Run(const Body& body, Scope* scope, std::string* out);

 private:
  absl::StatusOr<Flow> Execute(const Statement& statement, Scope* scope, std::string* out);
  absl::Status Output(const Statement& statement, Scope* scope, std::string* out);
  absl::StatusOr<Flow> RunIf(const Statement& statement, Scope* scope, std::string* out);
  absl::StatusOr<Flow> RunFor(const Statement& statement, Scope* scope, std::string* out);
  absl::StatusOr<Flow> RunWith(const Statement& statement, Scope* scope, std::string* out);
  absl::StatusOr<Items> LoopItems(const Statement& statement, Scope* scope);
  absl::Status RunSet(const Statement& statement, Scope* scope);
  absl::Status RunSetBlock(const Statement& statement, Scope* scope);
  absl::Status Assign(const Statement& statement, Value value, Scope* scope);
  absl::Status AssignTargets(const Statement& statement, const Value& value, Scope* scope);

  Result Evaluate(const Expression& expression, Scope* scope);
  Result EvaluateName(const Expression& expression, Scope* scope);
  Result EvaluateSlice(const Expression& expression, Scope* scope);
  Result EvaluateContainer(const Expression& expression, Scope* scope);
  Result EvaluateConcat(const Expression& expression, Scope* scope);
  Result EvaluateCompare(const Expression& expression, Scope* scope);
  Result EvaluateConditional(const Expression& expression, Scope* scope);
  Result EvaluateOperator(const Expression& expression, Scope* scope);
  Result EvaluateFilter(const Expression& expression, Scope* scope);
  Result EvaluateTest(const Expression& expression, Scope* scope);
  Result EvaluateCall(const Expression& expression, Scope* scope);
  absl::StatusOr<Arguments> EvaluateArguments(const Expression& expression, Scope* scope);
  Result CallMacro(const Callable& callable, const Arguments& arguments);
  absl::Status BindMacro(const MacroDefinition& macro, const Arguments& arguments, Scope* scope);

  const RenderOptions& options_;
  Budget budget_;
};

absl::StatusOr<Flow> Interpreter::Run(const Body& body, Scope* scope, std::string* out) {
  for (const auto& statement : body) {
    SPOTD_ASSIGN_OR_RETURN(const Flow flow, Execute(*statement, scope, out));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Flow> Interpreter::Execute(const Statement& statement, Scope* scope,
                                          std::string* out) {
  const Budget::Frame frame(&budget_);
  if (frame.too_deep()) return ErrorAt(statement.at, "the template is nested too deeply");
  if (auto spent = budget_.Spend(8 + statement.text.size()); !spent.ok())
    return At(statement.at, spent);
  absl::Status status;
  switch (statement.kind) {
    case Statement::Kind::kText:
      *out += statement.text;
      return Flow::kNext;
    case Statement::Kind::kOutput:
      status = Output(statement, scope, out);
      break;
    case Statement::Kind::kIf:
      return RunIf(statement, scope, out);
    case Statement::Kind::kFor:
      return RunFor(statement, scope, out);
    case Statement::Kind::kSet:
      status = RunSet(statement, scope);
      break;
    case Statement::Kind::kSetBlock:
      status = RunSetBlock(statement, scope);
      break;
    case Statement::Kind::kMacro:
      scope->Set(statement.macro.name,
                 Value::OfCallable(Callable::OfMacro(&statement.macro, scope)));
      break;
    case Statement::Kind::kWith:
      return RunWith(statement, scope, out);
    case Statement::Kind::kGroup:
      return Run(statement.body, scope, out);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  if (!status.ok()) return status;
  return Flow::kNext;
}

absl::Status Interpreter::Output(const Statement& statement, Scope* scope, std::string* out) {
  SPOTD_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.value, scope));
  SPOTD_ASSIGN_OR_RETURN(const std::string text, At(statement.at, Str(value, &budget_)));
  *out += text;
  return absl::OkStatus();
}

absl::StatusOr<Flow> Interpreter::RunIf(const Statement& statement, Scope* scope,
                                        std::string* out) {
  for (const auto& branch : statement.branches) {
    if (branch.condition != nullptr) {
      SPOTD_ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.condition, scope));
      if (!condition.Truth()) continue;
    }
    return Run(branch.body, scope, out);
  }
  return Flow::kNext;
}

// What the loop goes over: with a condition, only the items that meet it count.
absl::StatusOr<Items> Interpreter::LoopItems(const Statement& statement, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.value, scope));
  SPOTD_ASSIGN_OR_RETURN(Items items, At(statement.value->at, Iterate(value, &budget_)));
  if (statement.condition == nullptr) return items;
  std::vector<Value> kept;
  for (const Value& item : *items) {
    Scope inner(scope);
    SPOTD_RETURN_IF_ERROR(AssignTargets(statement, item, &inner));
    SPOTD_ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.condition, &inner));
    if (condition.Truth()) kept.push_back(item);
  }
  return std::make_shared<const std::vector<Value>>(std::move(kept));
}

absl::StatusOr<Flow> Interpreter::RunFor(const Statement& statement, Scope* scope,
                                         std::string* out) {
  SPOTD_ASSIGN_OR_RETURN(const Items items, LoopItems(statement, scope));
  if (items->empty()) {
    Scope inner(scope);
    return Run(statement.else_body, &inner, out);
  }
  for (size_t i = 0; i < items->size(); ++i) {
    Scope inner(scope);
    SPOTD_RETURN_IF_ERROR(AssignTargets(statement, (*items)[i], &inner));
    inner.Set("loop", Value::OfLoop(std::make_shared<const LoopState>(LoopState{items, i})));
    SPOTD_ASSIGN_OR_RETURN(const Flow flow, Run(statement.body, &inner, out));
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

absl::StatusOr<Flow> Interpreter::RunWith(const Statement& statement, Scope* scope,
                                          std::string* out) {
  Scope inner(scope);
  for (const auto& [name, expression] : statement.assignments) {
    SPOTD_ASSIGN_OR_RETURN(Value value, Evaluate(*expression, scope));
    inner.Set(name, std::move(value));
  }
  return Run(statement.body, &inner, out);
}

absl::Status Interpreter::RunSet(const Statement& statement, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(Value value, Evaluate(*statement.value, scope));
  return Assign(statement, std::move(value), scope);
}

absl::Status Interpreter::RunSetBlock(const Statement& statement, Scope* scope) {
  std::string text;
  {
    Scope inner(scope);
    SPOTD_RETURN_IF_ERROR(Run(statement.body, &inner, &text).status());
  }
  Scope filters(scope);
  filters.Set("", Value::String(std::move(text)));  // what the parser put under the filters
  SPOTD_ASSIGN_OR_RETURN(Value value, Evaluate(*statement.value, &filters));
  return Assign(statement, std::move(value), scope);
}

absl::Status Interpreter::Assign(const Statement& statement, Value value, Scope* scope) {
  if (statement.attribute.empty()) return AssignTargets(statement, value, scope);
  const Value* target = scope->Find(statement.targets[0]);
  if (target == nullptr || !target->Is(Kind::kNamespace)) {
    return ErrorAt(statement.at, Concat("\"", statement.targets[0], "\" is not a namespace"));
  }
  const absl::Status status = target->AsNamespace()->Set(statement.attribute, std::move(value));
  return status.ok() ? status : At(statement.at, status);
}

absl::Status Interpreter::AssignTargets(const Statement& statement, const Value& value,
                                        Scope* scope) {
  if (statement.targets.size() == 1) {
    scope->Set(statement.targets[0], value);
    return absl::OkStatus();
  }
  SPOTD_ASSIGN_OR_RETURN(const Items items, At(statement.at, Iterate(value, &budget_)));
  if (items->size() != statement.targets.size()) {
    return ErrorAt(statement.at,
                   Concat(statement.targets.size(), " names for ", items->size(), " values"));
  }
  for (size_t i = 0; i < items->size(); ++i) scope->Set(statement.targets[i], (*items)[i]);
  return absl::OkStatus();
}

Result Interpreter::Evaluate(const Expression& expression, Scope* scope) {
  const Budget::Frame frame(&budget_);
  if (frame.too_deep()) return ErrorAt(expression.at, "the template is nested too deeply");
  if (auto spent = budget_.Spend(4); !spent.ok()) return At(expression.at, spent);
  switch (expression.kind) {
    case Expression::Kind::kLiteral:
      return expression.literal;
    case Expression::Kind::kName:
      return EvaluateName(expression, scope);
    case Expression::Kind::kSlice:
      return EvaluateSlice(expression, scope);
    case Expression::Kind::kCall:
      return EvaluateCall(expression, scope);
    case Expression::Kind::kFilter:
      return EvaluateFilter(expression, scope);
    case Expression::Kind::kTest:
      return EvaluateTest(expression, scope);
    case Expression::Kind::kConcat:
      return EvaluateConcat(expression, scope);
    case Expression::Kind::kCompare:
      return EvaluateCompare(expression, scope);
    case Expression::Kind::kConditional:
      return EvaluateConditional(expression, scope);
    case Expression::Kind::kList:
    case Expression::Kind::kTuple:
    case Expression::Kind::kDict:
      return EvaluateContainer(expression, scope);
    default:
      return EvaluateOperator(expression, scope);
  }
}

Result Interpreter::EvaluateName(const Expression& expression, Scope* scope) {
  const Value* value = scope->Find(expression.name);
  return value != nullptr ? *value
                          : Value::MakeUndefined(Concat("'", expression.name, "' is undefined"));
}

// Those with one or two operands that are always evaluated, or skipped by the first.
Result Interpreter::EvaluateOperator(const Expression& expression, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(const Value first, Evaluate(*expression.operands[0], scope));
  switch (expression.kind) {
    case Expression::Kind::kAttribute:
      return At(expression.at, GetAttribute(first, expression.name));
    case Expression::Kind::kNot:
      return Value::Bool(!first.Truth());
    case Expression::Kind::kNegative:
      return At(expression.at, Negate(first));
    case Expression::Kind::kPositive:
      return At(expression.at, Arithmetic("+", Value::Int(0), first, &budget_));
    case Expression::Kind::kAnd:
      return first.Truth() ? Evaluate(*expression.operands[1], scope) : first;
    case Expression::Kind::kOr:
      return first.Truth() ? first : Evaluate(*expression.operands[1], scope);
    default:
      break;
  }
  SPOTD_ASSIGN_OR_RETURN(const Value second, Evaluate(*expression.operands[1], scope));
  return At(expression.at, expression.kind == Expression::Kind::kItem
                               ? GetItem(first, second, &budget_)
                               : Arithmetic(expression.name, first, second, &budget_));
}

Result Interpreter::EvaluateSlice(const Expression& expression, Scope* scope) {
  Value parts[4];  // object, start, stop, step
  for (size_t i = 0; i < 4; ++i) {
    if (expression.operands[i] == nullptr) continue;
    SPOTD_ASSIGN_OR_RETURN(parts[i], Evaluate(*expression.operands[i], scope));
  }
  return At(expression.at, GetSlice(parts[0], parts[1], parts[2], parts[3], &budget_));
}

Result Interpreter::EvaluateContainer(const Expression& expression, Scope* scope) {
  std::vector<Value> items;
  for (const auto& operand : expression.operands) {
    SPOTD_ASSIGN_OR_RETURN(Value item, Evaluate(*operand, scope));
    items.push_back(std::move(item));
  }
  if (expression.kind != Expression::Kind::kDict) {
    return At(expression.at,
              MakeSequence(std::move(items), expression.kind == Expression::Kind::kTuple));
  }
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < items.size(); i += 2) {
    if (auto spent = budget_.Spend(items[i].weight()); !spent.ok()) return At(expression.at, spent);
    entries.emplace_back(items[i], items[i + 1]);
  }
  return At(expression.at, MakeDict(std::move(entries)));
}

Result Interpreter::EvaluateConcat(const Expression& expression, Scope* scope) {
  std::string text;
  for (const auto& operand : expression.operands) {
    SPOTD_ASSIGN_OR_RETURN(const Value value, Evaluate(*operand, scope));
    SPOTD_ASSIGN_OR_RETURN(const std::string part, At(expression.at, Str(value, &budget_)));
    text += part;
  }
  return Value::String(std::move(text));
}

Result Interpreter::EvaluateCompare(const Expression& expression, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(Value left, Evaluate(*expression.operands[0], scope));
  for (size_t i = 0; i < expression.names.size(); ++i) {
    SPOTD_ASSIGN_OR_RETURN(Value right, Evaluate(*expression.operands[i + 1], scope));
    SPOTD_ASSIGN_OR_RETURN(const bool holds,
                           At(expression.at, Compare(expression.names[i], left, right, &budget_)));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Result Interpreter::EvaluateConditional(const Expression& expression, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(const Value condition, Evaluate(*expression.operands[0], scope));
  if (condition.Truth()) return Evaluate(*expression.operands[1], scope);
  if (expression.operands[2] != nullptr) return Evaluate(*expression.operands[2], scope);
  return Value::MakeUndefined("the inline if had no else");
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expression& expression,
                                                         Scope* scope) {
  Arguments arguments;
  for (const auto& argument : expression.arguments) {
    SPOTD_ASSIGN_OR_RETURN(Value value, Evaluate(*argument, scope));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : expression.named_arguments) {
    SPOTD_ASSIGN_OR_RETURN(Value value, Evaluate(*argument, scope));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

Result Interpreter::EvaluateFilter(const Expression& expression, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.operands[0], scope));
  SPOTD_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression, scope));
  return At(expression.at, ApplyFilter(expression.name, value, arguments, &budget_));
}

Result Interpreter::EvaluateTest(const Expression& expression, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.operands[0], scope));
  SPOTD_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression, scope));
  SPOTD_ASSIGN_OR_RETURN(const bool yes,
                         At(expression.at, ApplyTest(expression.name, value, arguments, &budget_)));
  return Value::Bool(yes);
}

Result Interpreter::EvaluateCall(const Expression& expression, Scope* scope) {
  SPOTD_ASSIGN_OR_RETURN(const Value callee, Evaluate(*expression.operands[0], scope));
  SPOTD_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression, scope));
  if (callee.Is(Kind::kUndefined)) return ErrorAt(expression.at, callee.WhyUndefined());
  if (!callee.Is(Kind::kCallable)) {
    return ErrorAt(expression.at, Concat("a ", callee.TypeName(), " cannot be called"));
  }
  const Callable& callable = callee.AsCallable();
  if (callable.macro != nullptr) return CallMacro(callable, arguments);
  if (callable.is_method) {
    return At(expression.at, CallMethod(callable.self, callable.name, arguments, &budget_));
  }
  Result result = CallFunction(callable.name, arguments, options_.now, &budget_);
  if (callable.name == kRaiseException) return result;  // the template's own words
  return At(expression.at, std::move(result));
}

absl::Status Interpreter::BindMacro(const MacroDefinition& macro, const Arguments& arguments,
                                    Scope* scope) {
  if (arguments.positional.size() > macro.parameters.size()) {
    return InvalidArgument("macro \"", macro.name, "\" takes ", macro.parameters.size(),
                           " arguments");
  }
  for (const auto& [name, value] : arguments.named) {
    const bool known = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                   [&, wanted = name](const auto& p) { return p.name == wanted; });
    if (!known) return InvalidArgument("macro \"", macro.name, "\" has no argument \"", name, "\"");
  }
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& parameter = macro.parameters[i];
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(),
                     [&](const auto& entry) { return entry.first == parameter.name; });
    if (i < arguments.positional.size()) {
      scope->Set(parameter.name, arguments.positional[i]);
    } else if (named != arguments.named.end()) {
      scope->Set(parameter.name, named->second);
    } else if (parameter.fallback != nullptr) {
      SPOTD_ASSIGN_OR_RETURN(Value value, Evaluate(*parameter.fallback, scope));
      scope->Set(parameter.name, std::move(value));
    } else {
      scope->Set(parameter.name,
                 Value::MakeUndefined(Concat("parameter '", parameter.name, "' was not provided")));
    }
  }
  return absl::OkStatus();
}

Result Interpreter::CallMacro(const Callable& callable, const Arguments& arguments) {
  Scope inner(callable.scope);
  SPOTD_RETURN_IF_ERROR(BindMacro(*callable.macro, arguments, &inner));
  std::string text;
  SPOTD_RETURN_IF_ERROR(Run(callable.macro->body, &inner, &text).status());
  return Value::String(std::move(text));
}

}  // namespace

void Scope::Set(const std::string& name, Value value) {
  values_.insert_or_assign(name, std::move(value));
}

const Value* Scope::Find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_) {
    if (const auto at = scope->values_.find(name); at != scope->values_.end()) return &at->second;
  }
  return nullptr;
}

absl::StatusOr<std::string> Render(const Body& body,
                                   std::vector<std::pair<std::string, Value>> globals,
                                   const RenderOptions& options) {
  Scope functions(nullptr);
  for (const char* name : kFunctions)
    functions.Set(name, Value::OfCallable(Callable::OfFunction(name)));
  Scope scope(&functions);
  for (auto& [name, value] : globals) scope.Set(name, std::move(value));
  std::string out;
  SPOTD_RETURN_IF_ERROR(Interpreter(options).Run(body, &scope, &out).status());
  return out;
}

}  // namespace spotd::text::jinja
