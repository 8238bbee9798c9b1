#include "runtime/text/jinja/tests.h"

#include <functional>
#include <map>

#include "kernels/core/status.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/unicode.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<bool>;
using Test = std::function<Result(const Value& value, const Arguments& arguments, Budget* budget)>;

// A test without arguments.
Test Plain(bool (*is)(const Value& value)) {
  return [is](const Value& value, const Arguments& arguments, Budget*) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    return is(value);
  };
}

Test Comparison(const char* op) {
  return [op](const Value& value, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"other"}));
    SPOTD_ASSIGN_OR_RETURN(const Value other, bound.Get(0));
    return Compare(op, value, other, budget);
  };
}

Result Divisible(const Value& value, int64_t divisor, int64_t remainder, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Value rest, Arithmetic("%", value, Value::Int(divisor), budget));
  return rest.Equals(Value::Int(remainder));
}

Result DivisibleBy(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"num"}));
  SPOTD_ASSIGN_OR_RETURN(const int64_t divisor, bound.Int(0, 0));
  return Divisible(value, divisor, 0, budget);
}

// `is`, not ==: of the same type, and for constants the same value.
Result SameAs(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"other"}));
  SPOTD_ASSIGN_OR_RETURN(const Value other, bound.Get(0));
  return value.kind() == other.kind() && value.Equals(other);
}

bool IsSequence(const Value& v) {
  return v.Is(Kind::kString) || v.Is(Kind::kList) || v.Is(Kind::kDict) || v.Is(Kind::kUndefined);
}

const std::map<std::string, Test>& Tests() {
  static const std::map<std::string, Test> table = {
      {"defined", Plain([](const Value& v) { return !v.Is(Kind::kUndefined); })},
      {"undefined", Plain([](const Value& v) { return v.Is(Kind::kUndefined); })},
      {"none", Plain([](const Value& v) { return v.Is(Kind::kNone); })},
      {"boolean", Plain([](const Value& v) { return v.Is(Kind::kBool); })},
      {"true", Plain([](const Value& v) { return v.Is(Kind::kBool) && v.AsBool(); })},
      {"false", Plain([](const Value& v) { return v.Is(Kind::kBool) && !v.AsBool(); })},
      {"integer", Plain([](const Value& v) { return v.Is(Kind::kInt); })},
      {"float", Plain([](const Value& v) { return v.Is(Kind::kFloat); })},
      {"number", Plain([](const Value& v) { return v.IsNumber(); })},
      {"string", Plain([](const Value& v) { return v.Is(Kind::kString); })},
      {"mapping", Plain([](const Value& v) { return v.Is(Kind::kDict); })},
      {"iterable", Plain(IsSequence)},
      {"sequence", Plain(IsSequence)},
      {"callable", Plain([](const Value& v) { return v.Is(Kind::kCallable); })},
      {"lower", Plain([](const Value& v) {
         return v.Is(Kind::kString) && Lower(v.AsString()) == v.AsString();
       })},
      {"upper", Plain([](const Value& v) {
         return v.Is(Kind::kString) && Upper(v.AsString()) == v.AsString();
       })},
      {"odd", [](const Value& v, const Arguments&, Budget* b) { return Divisible(v, 2, 1, b); }},
      {"even", [](const Value& v, const Arguments&, Budget* b) { return Divisible(v, 2, 0, b); }},
      {"divisibleby", DivisibleBy},
      {"sameas", SameAs},
      {"eq", Comparison("==")},
      {"equalto", Comparison("==")},
      {"==", Comparison("==")},
      {"ne", Comparison("!=")},
      {"!=", Comparison("!=")},
      {"lt", Comparison("<")},
      {"lessthan", Comparison("<")},
      {"<", Comparison("<")},
      {"le", Comparison("<=")},
      {"<=", Comparison("<=")},
      {"gt", Comparison(">")},
      {"greaterthan", Comparison(">")},
      {">", Comparison(">")},
      {"ge", Comparison(">=")},
      {">=", Comparison(">=")},
      {"in", Comparison("in")},
  };
  return table;
}

}  // namespace

bool HasTest(const std::string& name) {
  return Tests().count(name) > 0;
}

Result ApplyTest(const std::string& name, const Value& value, const Arguments& arguments,
                 Budget* budget) {
  const auto it = Tests().find(name);
  if (it == Tests().end()) return InvalidArgument("there is no test \"", name, "\"");
  const size_t size = value.Is(Kind::kString) ? value.AsString().size() / 4 : 0;
  SPOTD_RETURN_IF_ERROR(budget->Spend(size + 1 + arguments.weight()));
  return it->second(value, arguments, budget);
}

}  // namespace spotd::text::jinja
