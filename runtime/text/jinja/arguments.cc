#include "runtime/text/jinja/arguments.h"

#include <algorithm>
#include <string_view>

#include "kernels/core/status.h"

namespace spotd::text::jinja {

size_t Arguments::weight() const {
  size_t sum = 0;
  for (const Value& value : positional) sum += value.weight();
  for (const auto& [name, value] : named) sum += value.weight();
  return sum;
}

absl::StatusOr<Bound> Bound::Bind(const Arguments& arguments,
                                  std::initializer_list<const char*> parameters) {
  Bound bound;
  bound.names_ = parameters;
  bound.values_.resize(parameters.size());
  if (arguments.positional.size() > parameters.size()) return InvalidArgument("too many arguments");
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.values_.begin());
  for (const auto& [argument, value] : arguments.named) {
    const std::string_view name = argument;  // clang 14 cannot capture a structured binding
    const auto which =
        std::find_if(bound.names_.begin(), bound.names_.end(),
                     [&](const char* parameter) { return std::string_view(parameter) == name; });
    if (which == bound.names_.end()) return InvalidArgument("unknown argument \"", name, "\"");
    auto& slot = bound.values_[static_cast<size_t>(which - bound.names_.begin())];
    if (slot) return InvalidArgument("argument \"", name, "\" is given twice");
    slot = value;
  }
  return bound;
}

absl::StatusOr<Value> Bound::Get(size_t i) const {
  if (!values_[i]) return InvalidArgument("argument \"", names_[i], "\" is missing");
  return *values_[i];
}

absl::StatusOr<int64_t> Bound::Int(size_t i, int64_t absent) const {
  if (!values_[i] || values_[i]->Is(Value::Kind::kNone)) return absent;
  if (values_[i]->Is(Value::Kind::kInt) || values_[i]->Is(Value::Kind::kBool))
    return values_[i]->AsInt();
  return InvalidArgument("argument \"", names_[i], "\" is a ", values_[i]->TypeName(),
                         ", not an int");
}

absl::StatusOr<bool> Bound::Bool(size_t i, bool absent) const {
  return values_[i] ? values_[i]->Truth() : absent;
}

absl::StatusOr<std::string> Bound::String(size_t i) const {
  SPOTD_ASSIGN_OR_RETURN(const Value value, Get(i));
  if (value.Is(Value::Kind::kString)) return value.AsString();
  return InvalidArgument("argument \"", names_[i], "\" is a ", value.TypeName(), ", not a str");
}

absl::StatusOr<std::string> Bound::String(size_t i, const std::string& absent) const {
  if (!values_[i] || values_[i]->Is(Value::Kind::kNone)) return absent;
  return String(i);
}

}  // namespace spotd::text::jinja
