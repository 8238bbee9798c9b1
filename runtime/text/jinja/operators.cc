#include "runtime/text/jinja/operators.h"

#include <string.h>

#include <algorithm>
#include <cmath>

#include "kernels/core/status.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;

constexpr std::string_view kOverflow = "a number is too large";

bool IsInteger(const Value& value) {
  return value.Is(Kind::kInt) || value.Is(Kind::kBool);
}

absl::Status Unusable(const Value& value) {
  return InvalidArgument(value.WhyUndefined());
}

absl::Status Unsupported(std::string_view op, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (value->Is(Kind::kUndefined)) return Unusable(*value);
  }
  return InvalidArgument("\"", op, "\" does not work on ", left.TypeName(), " and ",
                         right.TypeName());
}

absl::StatusOr<Value> Power(int64_t base, int64_t exponent) {
  if (exponent < 0)
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t result = 1;
  while (exponent > 0) {
    if (exponent % 2 == 1 && __builtin_mul_overflow(result, base, &result))
      return InvalidArgument(kOverflow);
    exponent /= 2;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
      return InvalidArgument(kOverflow);
  }
  return Value::Int(result);
}

// Python rounds the quotient down, and the remainder has the sign of the divisor.
absl::StatusOr<Value> FloorDivide(std::string_view op, int64_t left, int64_t right) {
  if (right == 0) return InvalidArgument("division by zero");
  if (right == -1) {
    int64_t result = 0;
    if (__builtin_sub_overflow(int64_t{0}, left, &result)) return InvalidArgument(kOverflow);
    return Value::Int(op == "%" ? 0 : result);
  }
  const int64_t quotient = left / right;
  const int64_t remainder = left % right;
  const bool adjust = remainder != 0 && (remainder < 0) != (right < 0);
  return Value::Int(op == "%" ? remainder + (adjust ? right : 0) : quotient - (adjust ? 1 : 0));
}

absl::StatusOr<Value> IntArithmetic(std::string_view op, int64_t left, int64_t right) {
  int64_t result = 0;
  if (op == "+"   ? __builtin_add_overflow(left, right, &result)
      : op == "-" ? __builtin_sub_overflow(left, right, &result)
                  : op == "*" && __builtin_mul_overflow(left, right, &result)) {
    return InvalidArgument(kOverflow);
  }
  if (op == "//" || op == "%") return FloorDivide(op, left, right);
  if (op == "**") return Power(left, right);
  return Value::Int(result);
}

absl::StatusOr<Value> FloatArithmetic(std::string_view op, double left, double right) {
  if (op == "+") return Value::Float(left + right);
  if (op == "-") return Value::Float(left - right);
  if (op == "*") return Value::Float(left * right);
  if (op == "**") return Value::Float(std::pow(left, right));
  if (right == 0) return InvalidArgument("division by zero");
  if (op == "/") return Value::Float(left / right);
  if (op == "//") return Value::Float(std::floor(left / right));
  const double remainder = std::fmod(left, right);
  const bool adjust = remainder != 0 && (remainder < 0) != (right < 0);
  return Value::Float(adjust ? remainder + right : remainder);
}

absl::StatusOr<Value> Repeat(const Value& value, int64_t times, Budget* budget) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  const size_t size = value.Is(Kind::kString) ? value.AsString().size() : value.AsList().size();
  if (size > 0 && count > budget->left() / size)
    return InvalidArgument("the template does too much work");
  SPOTD_RETURN_IF_ERROR(budget->Spend(size * count));
  if (value.Is(Kind::kString)) {
    std::string text;
    text.reserve(size * count);
    for (size_t i = 0; i < count && size > 0; ++i) text += value.AsString();
    return Value::String(std::move(text));
  }
  std::vector<Value> items;
  for (size_t i = 0; i < count && size > 0; ++i) {
    items.insert(items.end(), value.AsList().begin(), value.AsList().end());
  }
  return MakeSequence(std::move(items), value.IsTuple());
}

absl::StatusOr<Value> Add(const Value& left, const Value& right, Budget* budget) {
  if (left.Is(Kind::kString) && right.Is(Kind::kString)) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(left.AsString().size() + right.AsString().size()));
    return Value::String(left.AsString() + right.AsString());
  }
  if (left.Is(Kind::kList) && right.Is(Kind::kList) && left.IsTuple() == right.IsTuple()) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(left.AsList().size() + right.AsList().size()));
    std::vector<Value> items = left.AsList();
    items.insert(items.end(), right.AsList().begin(), right.AsList().end());
    return MakeSequence(std::move(items), left.IsTuple());
  }
  return Unsupported("+", left, right);
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget* budget) {
  if (container.Is(Kind::kUndefined)) return false;  // nothing is in it
  if (container.Is(Kind::kString)) {
    if (!item.Is(Kind::kString)) return Unsupported("in", item, container);
    SPOTD_RETURN_IF_ERROR(budget->Spend(container.AsString().size() / 16));
    return FindText(container.AsString(), item.AsString()) != std::string::npos;
  }
  if (container.Is(Kind::kDict)) return container.Find(item) != nullptr;
  if (!container.Is(Kind::kList)) return Unsupported("in", item, container);
  SPOTD_RETURN_IF_ERROR(budget->Spend(container.weight()));
  const auto& items = container.AsList();
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& other) { return other.Equals(item); });
}

absl::StatusOr<bool> ListLess(const std::vector<Value>& left, const std::vector<Value>& right,
                              Budget* budget) {
  for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
    if (!left[i].Equals(right[i])) return Less(left[i], right[i], budget);
  }
  return left.size() < right.size();
}

// The index into `size` elements that Python's negative indices mean; nothing when out of range.
std::optional<size_t> Index(const Value& key, size_t size) {
  const int64_t index = key.AsInt();
  const auto count = static_cast<int64_t>(size);
  if (index >= count || index < -count) return std::nullopt;
  return static_cast<size_t>(index < 0 ? index + count : index);
}

std::string Missing(const Value& object, const std::string& name) {
  return Concat("'", object.TypeName(), " object' has no attribute '", name, "'");
}

Value LoopAttribute(const LoopState& loop, const std::string& name) {
  const auto size = static_cast<int64_t>(loop.items->size());
  const auto index = static_cast<int64_t>(loop.index);
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(size - index);
  if (name == "revindex0") return Value::Int(size - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "depth") return Value::Int(1);  // deeper only in recursive loops
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem") {
    return index > 0 ? (*loop.items)[loop.index - 1]
                     : Value::MakeUndefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < size ? (*loop.items)[loop.index + 1]
                            : Value::MakeUndefined("there is no next item");
  }
  return Value::MakeUndefined(Concat("'loop' has no attribute '", name, "'"));
}

struct SliceRange {
  int64_t start;
  int64_t step;
  size_t count;
};

absl::StatusOr<int64_t> SlicePart(const Value& part, int64_t absent) {
  if (part.Is(Kind::kNone)) return absent;
  if (!IsInteger(part)) return InvalidArgument("a slice with a ", part.TypeName());
  return part.AsInt();
}

// As Python's slice.indices.
absl::StatusOr<SliceRange> ResolveSlice(const Value& start, const Value& stop, const Value& step,
                                        int64_t size) {
  SPOTD_ASSIGN_OR_RETURN(const int64_t by, SlicePart(step, 1));
  if (by == 0) return InvalidArgument("a slice with step zero");
  const bool back = by < 0;
  const int64_t low = back ? -1 : 0;
  const int64_t high = back ? size - 1 : size;
  const auto resolve = [&](const Value& part, int64_t absent) -> absl::StatusOr<int64_t> {
    if (part.Is(Kind::kNone)) return absent;
    SPOTD_ASSIGN_OR_RETURN(int64_t index, SlicePart(part, absent));
    if (index < 0) index = index < -size ? low : index + size;
    return std::clamp(index, low, high);
  };
  SPOTD_ASSIGN_OR_RETURN(const int64_t first, resolve(start, back ? high : low));
  SPOTD_ASSIGN_OR_RETURN(const int64_t last, resolve(stop, back ? low : high));
  const int64_t distance = back ? first - last : last - first;
  if (distance <= 0) return SliceRange{first, by, 0};
  const uint64_t stride =
      back ? uint64_t{0} - static_cast<uint64_t>(by) : static_cast<uint64_t>(by);
  return SliceRange{first, by,
                    static_cast<size_t>((static_cast<uint64_t>(distance) - 1) / stride + 1)};
}

template <typename T>
std::vector<T> Pick(const std::vector<T>& all, const SliceRange& range) {
  std::vector<T> picked;
  picked.reserve(range.count);
  int64_t at = range.start;
  for (size_t i = 0; i < range.count; ++i) {
    picked.push_back(all[static_cast<size_t>(at)]);
    if (i + 1 < range.count) at += range.step;
  }
  return picked;
}

}  // namespace

size_t FindText(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

absl::StatusOr<Value> Arithmetic(std::string_view op, const Value& left, const Value& right,
                                 Budget* budget) {
  if (left.IsNumber() && right.IsNumber()) {
    const bool integers = IsInteger(left) && IsInteger(right) && op != "/";
    return integers ? IntArithmetic(op, left.AsInt(), right.AsInt())
                    : FloatArithmetic(op, left.AsNumber(), right.AsNumber());
  }
  if (op == "+") return Add(left, right, budget);
  const auto repeats = [](const Value& value, const Value& times) {
    return (value.Is(Kind::kString) || value.Is(Kind::kList)) && IsInteger(times);
  };
  if (op == "*" && repeats(left, right)) return Repeat(left, right.AsInt(), budget);
  if (op == "*" && repeats(right, left)) return Repeat(right, left.AsInt(), budget);
  return Unsupported(op, left, right);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.Is(Kind::kFloat)) return Value::Float(-value.AsFloat());
  if (IsInteger(value)) return IntArithmetic("-", 0, value.AsInt());
  if (value.Is(Kind::kUndefined)) return Unusable(value);
  return InvalidArgument("\"-\" does not work on ", value.TypeName());
}

absl::StatusOr<bool> Less(const Value& left, const Value& right, Budget* budget) {
  if (left.IsNumber() && right.IsNumber()) {
    const bool integers = IsInteger(left) && IsInteger(right);
    return integers ? left.AsInt() < right.AsInt() : left.AsNumber() < right.AsNumber();
  }
  if (left.Is(Kind::kString) && right.Is(Kind::kString)) return left.AsString() < right.AsString();
  if (left.Is(Kind::kList) && right.Is(Kind::kList)) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(left.weight() + right.weight()));
    return ListLess(left.AsList(), right.AsList(), budget);
  }
  return Unsupported("<", left, right);
}

absl::StatusOr<bool> Compare(std::string_view op, const Value& left, const Value& right,
                             Budget* budget) {
  SPOTD_RETURN_IF_ERROR(budget->Spend(std::min(left.weight(), right.weight())));
  if (op == "==") return left.Equals(right);
  if (op == "!=") return !left.Equals(right);
  if (op == "in") return Contains(right, left, budget);
  if (op == "<") return Less(left, right, budget);
  if (op == ">") return Less(right, left, budget);
  const bool orders_reversed = op == "<=";  // a <= b is not (b < a)
  SPOTD_ASSIGN_OR_RETURN(const bool opposite, op == "not in"    ? Contains(right, left, budget)
                                              : orders_reversed ? Less(right, left, budget)
                                                                : Less(left, right, budget));
  const bool has_nan = left.IsNumber() && right.IsNumber() &&
                       (std::isnan(left.AsNumber()) || std::isnan(right.AsNumber()));
  return !opposite && !has_nan;
}

absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name) {
  if (object.Is(Kind::kUndefined)) return Unusable(object);
  if (HasMethod(object, name)) {
    return Value::OfCallable(Callable::OfMethod(name, object));
  }
  const Value* found = object.Is(Kind::kDict)        ? object.Find(Value::String(name))
                       : object.Is(Kind::kNamespace) ? object.AsNamespace()->Find(name)
                                                     : nullptr;
  if (found != nullptr) return *found;
  if (object.Is(Kind::kLoop)) return LoopAttribute(object.AsLoop(), name);
  return Value::MakeUndefined(Missing(object, name));
}

absl::StatusOr<Value> GetItem(const Value& object, const Value& key, Budget* budget) {
  if (object.Is(Kind::kUndefined)) return Unusable(object);
  SPOTD_RETURN_IF_ERROR(budget->Spend(key.weight()));
  if (object.Is(Kind::kDict)) {
    if (const Value* found = object.Find(key)) return *found;
  } else if (IsInteger(key) && object.Is(Kind::kList)) {
    if (const auto index = Index(key, object.AsList().size())) return object.AsList()[*index];
  } else if (IsInteger(key) && object.Is(Kind::kString)) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(object.AsString().size() / 8));
    const std::vector<uint32_t> characters = Characters(object.AsString());
    if (const auto index = Index(key, characters.size())) {
      return Value::String(FromCharacters({characters[*index]}));
    }
  }
  if (key.Is(Kind::kString)) return GetAttribute(object, key.AsString());
  return Value::MakeUndefined(Concat("the ", object.TypeName(), " has no such item"));
}

absl::StatusOr<Value> GetSlice(const Value& object, const Value& start, const Value& stop,
                               const Value& step, Budget* budget) {
  if (object.Is(Kind::kUndefined)) return Unusable(object);
  if (object.Is(Kind::kString)) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(object.AsString().size()));
    const std::vector<uint32_t> characters = Characters(object.AsString());
    SPOTD_ASSIGN_OR_RETURN(
        const SliceRange range,
        ResolveSlice(start, stop, step, static_cast<int64_t>(characters.size())));
    return Value::String(FromCharacters(Pick(characters, range)));
  }
  if (!object.Is(Kind::kList)) return InvalidArgument("a ", object.TypeName(), " has no slices");
  SPOTD_ASSIGN_OR_RETURN(
      const SliceRange range,
      ResolveSlice(start, stop, step, static_cast<int64_t>(object.AsList().size())));
  SPOTD_RETURN_IF_ERROR(budget->Spend(range.count));
  return MakeSequence(Pick(object.AsList(), range), object.IsTuple());
}

absl::StatusOr<Items> Iterate(const Value& value, Budget* budget) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      break;
    case Kind::kList:
      SPOTD_RETURN_IF_ERROR(budget->Spend(value.AsList().size()));
      items = value.AsList();
      break;
    case Kind::kDict:
      SPOTD_RETURN_IF_ERROR(budget->Spend(value.AsDict().size()));
      for (const auto& [key, item] : value.AsDict()) items.push_back(key);
      break;
    case Kind::kString:
      SPOTD_RETURN_IF_ERROR(budget->Spend(value.AsString().size() * 16));
      for (const uint32_t character : Characters(value.AsString())) {
        items.push_back(Value::String(FromCharacters({character})));
      }
      break;
    default:
      return InvalidArgument("a ", value.TypeName(), " cannot be iterated over");
  }
  return std::make_shared<const std::vector<Value>>(std::move(items));
}

}  // namespace spotd::text::jinja
