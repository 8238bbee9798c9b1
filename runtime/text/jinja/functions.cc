#include "runtime/text/jinja/functions.h"

#include <ctime>
#include <memory>

#include "kernels/core/status.h"
#include "runtime/text/jinja/format.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<Value>;

// The entries of an optional dict argument, then the named arguments.
absl::StatusOr<std::vector<std::pair<Value, Value>>> Entries(const Arguments& arguments,
                                                             Budget* budget) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) return InvalidArgument("too many arguments");
  if (!arguments.positional.empty()) {
    const Value& first = arguments.positional[0];
    if (!first.Is(Kind::kDict))
      return InvalidArgument("a dict is needed, not a ", first.TypeName());
    entries = first.AsDict();
  }
  for (const auto& [name, value] : arguments.named)
    entries.emplace_back(Value::String(name), value);
  // Each is compared with all before it.
  SPOTD_RETURN_IF_ERROR(budget->Spend(entries.size() * entries.size() / 4));
  return entries;
}

Result MakeNamespace(const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const auto entries, Entries(arguments, budget));
  auto space = std::make_shared<Namespace>();
  for (const auto& [name, value] : entries) {
    if (!name.Is(Kind::kString)) return InvalidArgument("a namespace has names, not numbers");
    SPOTD_RETURN_IF_ERROR(space->Set(name.AsString(), value));
  }
  return Value::OfNamespace(std::move(space));
}

Result Range(const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"start", "stop", "step"}));
  for (const Value& value : arguments.positional) {
    if (!value.Is(Kind::kInt) && !value.Is(Kind::kBool))
      return InvalidArgument("range of a ", value.TypeName());
  }
  SPOTD_ASSIGN_OR_RETURN(const Value first, bound.Get(0));
  const int64_t start = bound.Has(1) ? first.AsInt() : 0;
  SPOTD_ASSIGN_OR_RETURN(const int64_t stop, bound.Int(1, first.AsInt()));
  SPOTD_ASSIGN_OR_RETURN(const int64_t step, bound.Int(2, 1));
  if (step == 0) return InvalidArgument("range with step zero");
  constexpr int64_t kMaxRange = 100'000;
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange)
      return InvalidArgument("the range is too large");
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  SPOTD_RETURN_IF_ERROR(budget->Spend(items.size()));
  return MakeList(std::move(items));
}

Result StrftimeNow(const Arguments& arguments, std::chrono::system_clock::time_point now) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"format"}));
  SPOTD_ASSIGN_OR_RETURN(const std::string format, bound.String(0));
  if (format.empty()) return Value::String("");
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm local{};
  localtime_r(&seconds, &local);
  char text[1024];
  const size_t size = std::strftime(text, sizeof text, format.c_str(), &local);
  if (size == 0) return InvalidArgument("the date format is too long");
  return Value::String(std::string(text, size));
}

}  // namespace

absl::StatusOr<Value> CallFunction(const std::string& name, const Arguments& arguments,
                                   std::chrono::system_clock::time_point now, Budget* budget) {
  SPOTD_RETURN_IF_ERROR(budget->Spend(arguments.weight()));
  if (name == "namespace") return MakeNamespace(arguments, budget);
  if (name == "range") return Range(arguments, budget);
  if (name == "strftime_now") return StrftimeNow(arguments, now);
  if (name == "dict") {
    SPOTD_ASSIGN_OR_RETURN(auto entries, Entries(arguments, budget));
    return MakeDict(std::move(entries));
  }
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"message"}));
  SPOTD_ASSIGN_OR_RETURN(const Value message, bound.Get(0));
  SPOTD_ASSIGN_OR_RETURN(const std::string text, Str(message, budget));
  return InvalidArgument(text);
}

}  // namespace spotd::text::jinja
