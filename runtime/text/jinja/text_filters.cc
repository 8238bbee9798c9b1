#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "kernels/core/status.h"
#include "runtime/text/jinja/filter_tables.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/unicode.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<Value>;

// A filter that maps the value's text.
Filter TextMap(std::string (*map)(std::string_view)) {
  return [map](const Value& value, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    SPOTD_ASSIGN_OR_RETURN(const std::string text, Str(value, budget));
    return Value::String(map(text));
  };
}

Result Trim(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const std::string text, Str(value, budget));
  return CallMethod(Value::String(text), "strip", arguments, budget);
}

Result ReplaceText(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const std::string text, Str(value, budget));
  return CallMethod(Value::String(text), "replace", arguments, budget);
}

Result ToString(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  SPOTD_ASSIGN_OR_RETURN(std::string text, Str(value, budget));
  return Value::String(std::move(text));
}

// Nothing is escaped on output, so marking text as safe changes nothing.
Result Safe(const Value& value, const Arguments& arguments, Budget* budget) {
  return ToString(value, arguments, budget);
}

Result Default(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"default_value", "boolean"}));
  SPOTD_ASSIGN_OR_RETURN(const bool boolean, bound.Bool(1, false));
  if (!value.Is(Kind::kUndefined) && (!boolean || value.Truth())) return value;
  return bound.Has(0) ? bound.Get(0) : Value::String("");
}

// The number at the front of stripped text if it is all of it.
template <typename Number>
std::optional<Number> ParseNumber(const std::string& text) {
  std::string_view stripped = Strip(text);
  if (!stripped.empty() && stripped[0] == '+') stripped.remove_prefix(1);
  Number number{};
  const char* end = stripped.data() + stripped.size();
  const auto result = std::from_chars(stripped.data(), end, number);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return number;
}

Result Truncate(double number, const Value& fallback) {
  if (!(std::fabs(number) < 9.0e18)) return fallback;
  return Value::Int(static_cast<int64_t>(number));
}

Result ToInt(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"default", "base"}));
  if (bound.Has(1)) return Unimplemented("int with a base");
  const Value fallback = bound.Has(0) ? *bound.Get(0) : Value::Int(0);
  if (value.Is(Kind::kUndefined)) return InvalidArgument(value.WhyUndefined());
  if (value.Is(Kind::kFloat)) return Truncate(value.AsFloat(), fallback);
  if (value.IsNumber()) return Value::Int(value.AsInt());
  if (!value.Is(Kind::kString)) return fallback;
  if (const auto number = ParseNumber<int64_t>(value.AsString())) return Value::Int(*number);
  if (const auto number = ParseNumber<double>(value.AsString())) return Truncate(*number, fallback);
  return fallback;
}

Result ToFloat(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"default"}));
  const Value fallback = bound.Has(0) ? *bound.Get(0) : Value::Float(0);
  if (value.Is(Kind::kUndefined)) return InvalidArgument(value.WhyUndefined());
  if (value.IsNumber()) return Value::Float(value.AsNumber());
  if (!value.Is(Kind::kString)) return fallback;
  const auto number = ParseNumber<double>(value.AsString());
  return number ? Value::Float(*number) : fallback;
}

Result Abs(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  if (!value.IsNumber()) return InvalidArgument("abs of a ", value.TypeName());
  if (value.AsNumber() < 0) return Negate(value);
  return value.Is(Kind::kBool) ? Value::Int(value.AsInt()) : value;
}

// Rounds half to even at "common", as Python's round does.
Result Round(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"precision", "method"}));
  SPOTD_ASSIGN_OR_RETURN(const int64_t precision, bound.Int(0, 0));
  SPOTD_ASSIGN_OR_RETURN(const std::string method, bound.String(1, "common"));
  if (!value.IsNumber()) return InvalidArgument("round of a ", value.TypeName());
  if (precision < 0 || precision > 15) return InvalidArgument("round to ", precision, " digits");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.AsNumber() * scale;
  if (method == "ceil") return Value::Float(std::ceil(scaled) / scale);
  if (method == "floor") return Value::Float(std::floor(scaled) / scale);
  if (method != "common") return InvalidArgument("round by \"", method, "\"");
  if (!value.Is(Kind::kFloat)) return Value::Int(value.AsInt());
  return Value::Float(std::nearbyint(scaled) / scale);
}

// indent(width=4, first=False, blank=False): every line but the first is moved to the right.
Result Indent(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"width", "first", "blank"}));
  std::string margin;
  if (bound.Has(0) && bound.Get(0)->Is(Kind::kString)) {
    margin = bound.Get(0)->AsString();
  } else {
    SPOTD_ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 4));
    margin.assign(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1000)), ' ');
  }
  SPOTD_ASSIGN_OR_RETURN(const bool first, bound.Bool(1, false));
  SPOTD_ASSIGN_OR_RETURN(const bool blank, bound.Bool(2, false));
  SPOTD_ASSIGN_OR_RETURN(const std::string text, Str(value, budget));
  const auto lines = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  SPOTD_RETURN_IF_ERROR(budget->Spend(text.size() + lines * (margin.size() + 1)));
  std::string out;
  size_t begin = 0;
  for (size_t line = 0; line < lines; ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const bool indents = line == 0 ? first : blank || end > begin;
    if (line > 0) out += '\n';
    if (indents) out += margin;
    out.append(text, begin, end - begin);
    begin = end + 1;
  }
  return Value::String(std::move(out));
}

absl::StatusOr<JsonOptions> ReadJsonOptions(const Bound& bound) {
  JsonOptions options;
  SPOTD_ASSIGN_OR_RETURN(options.ensure_ascii, bound.Bool(0, false));
  if (bound.Has(1) && !bound.Get(1)->Is(Kind::kNone)) {
    const Value indent = *bound.Get(1);
    SPOTD_ASSIGN_OR_RETURN(const int64_t width,
                           indent.Is(Kind::kString) ? int64_t{0} : bound.Int(1, 0));
    options.indent =
        indent.Is(Kind::kString)
            ? indent.AsString()
            : std::string(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1000)), ' ');
    options.item_separator = std::string(",");
  }
  if (bound.Has(2) && !bound.Get(2)->Is(Kind::kNone)) {
    const Value separators = *bound.Get(2);
    const bool pair = separators.Is(Kind::kList) && separators.AsList().size() == 2 &&
                      separators.AsList()[0].Is(Kind::kString) &&
                      separators.AsList()[1].Is(Kind::kString);
    if (!pair) return InvalidArgument("separators must be two strings");
    options.item_separator = separators.AsList()[0].AsString();
    options.key_separator = separators.AsList()[1].AsString();
  }
  SPOTD_ASSIGN_OR_RETURN(options.sort_keys, bound.Bool(3, false));
  return options;
}

Result ToJson(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"ensure_ascii", "indent",
                                                                    "separators", "sort_keys"}));
  SPOTD_ASSIGN_OR_RETURN(const JsonOptions options, ReadJsonOptions(bound));
  SPOTD_ASSIGN_OR_RETURN(std::string text, Json(value, options, budget));
  return Value::String(std::move(text));
}

}  // namespace

const FilterTable& TextFilters() {
  static const FilterTable table = {
      {"trim", Trim},
      {"upper", TextMap(Upper)},
      {"lower", TextMap(Lower)},
      {"capitalize", TextMap(Capitalize)},
      {"title", TextMap(TitleFilter)},
      {"replace", ReplaceText},
      {"string", ToString},
      {"safe", Safe},
      {"default", Default},
      {"d", Default},
      {"int", ToInt},
      {"float", ToFloat},
      {"abs", Abs},
      {"round", Round},
      {"indent", Indent},
      {"tojson", ToJson},
  };
  return table;
}

}  // namespace spotd::text::jinja
