#include "runtime/text/jinja/methods.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string_view>

#include "kernels/core/status.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/unicode.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<Value>;
using Method = std::function<Result(const Value& self, const Arguments& arguments, Budget* budget)>;
using MethodTable = std::map<std::string, Method, std::less<>>;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// A method without arguments that maps text to text.
Method TextMap(std::string (*map)(std::string_view)) {
  return [map](const Value& self, const Arguments& arguments, Budget*) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    return Value::String(map(self.AsString()));
  };
}

Method StripMethod(std::string_view (*strip)(std::string_view, const std::string*)) {
  return [strip](const Value& self, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"chars"}));
    const bool white_space = !bound.Has(0) || bound.Get(0)->Is(Kind::kNone);
    SPOTD_ASSIGN_OR_RETURN(const std::string set, bound.String(0, ""));
    SPOTD_RETURN_IF_ERROR(budget->Spend(set.size() * (self.AsString().size() / 64 + 1)));
    return Value::String(std::string(strip(self.AsString(), white_space ? nullptr : &set)));
  };
}

// True when every character is of the kind and there is one.
Method AllOf(bool (*is)(uint32_t)) {
  return [is](const Value& self, const Arguments& arguments, Budget*) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    const auto characters = Characters(self.AsString());
    return Value::Bool(!characters.empty() &&
                       std::all_of(characters.begin(), characters.end(), is));
  };
}

// True when mapping changes nothing and there is a character with case.
Method IsCase(std::string (*map)(std::string_view), std::string (*other)(std::string_view)) {
  return [map, other](const Value& self, const Arguments& arguments, Budget*) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    const std::string& text = self.AsString();
    return Value::Bool(map(text) == text && other(text) != text);
  };
}

// startswith and endswith: the argument is one text or a tuple of them.
Method Affix(bool at_start) {
  return [at_start](const Value& self, const Arguments& arguments, Budget*) -> Result {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"affix"}));
    SPOTD_ASSIGN_OR_RETURN(const Value affix, bound.Get(0));
    const std::vector<Value> choices = affix.IsTuple() ? affix.AsList() : std::vector<Value>{affix};
    const std::string_view text = self.AsString();
    for (const Value& choice : choices) {
      if (!choice.Is(Kind::kString)) return InvalidArgument("a str or a tuple of str is needed");
      const std::string& part = choice.AsString();
      if (part.size() > text.size()) continue;
      if (text.substr(at_start ? 0 : text.size() - part.size(), part.size()) == part)
        return Value::Bool(true);
    }
    return Value::Bool(false);
  };
}

Method RemoveAffix(bool at_start) {
  return [at_start](const Value& self, const Arguments& arguments, Budget*) -> Result {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"affix"}));
    SPOTD_ASSIGN_OR_RETURN(const std::string part, bound.String(0));
    std::string_view text = self.AsString();
    if (part.size() > text.size()) return self;
    if (text.substr(at_start ? 0 : text.size() - part.size(), part.size()) != part) return self;
    at_start ? text.remove_prefix(part.size()) : text.remove_suffix(part.size());
    return Value::String(std::string(text));
  };
}

Result Strings(const std::vector<std::string_view>& parts, Budget* budget) {
  SPOTD_RETURN_IF_ERROR(budget->Spend(parts.size() * 16));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.push_back(Value::String(std::string(part)));
  return MakeList(std::move(items));
}

std::vector<std::string_view> SplitAt(std::string_view text, const std::string& separator,
                                      int64_t limit) {
  std::vector<std::string_view> parts;
  while (static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = FindText(text, separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

std::vector<std::string_view> SplitAtFromRight(std::string_view text, const std::string& separator,
                                               int64_t limit) {
  std::vector<std::string_view> parts;
  while (static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

// The end of the word that `text` begins with.
size_t WordEnd(std::string_view text) {
  size_t end = 0;
  while (end < text.size() && StripLeft(text.substr(end, 4)).size() == text.substr(end, 4).size()) {
    ++end;
    while (end < text.size() && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) ++end;
  }
  return end;
}

std::vector<std::string_view> SplitWords(std::string_view text, int64_t limit) {
  std::vector<std::string_view> parts;
  for (text = StripLeft(text); !text.empty(); text = StripLeft(text)) {
    if (static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text);
      break;
    }
    const size_t end = WordEnd(text);
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

Method SplitMethod(bool from_right) {
  return [from_right](const Value& self, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"sep", "maxsplit"}));
    SPOTD_ASSIGN_OR_RETURN(const int64_t max_split, bound.Int(1, -1));
    const int64_t limit = max_split < 0 ? kNoLimit : max_split;
    const std::string_view text = self.AsString();
    SPOTD_RETURN_IF_ERROR(budget->Spend(text.size()));
    if (!bound.Has(0) || bound.Get(0)->Is(Kind::kNone)) {
      if (from_right && limit != kNoLimit)
        return Unimplemented("rsplit at white space with a limit");
      return Strings(SplitWords(text, limit), budget);
    }
    SPOTD_ASSIGN_OR_RETURN(const std::string separator, bound.String(0));
    if (separator.empty()) return InvalidArgument("empty separator");
    return Strings(
        from_right ? SplitAtFromRight(text, separator, limit) : SplitAt(text, separator, limit),
        budget);
  };
}

Result SplitLines(const Value& self, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"keepends"}));
  SPOTD_ASSIGN_OR_RETURN(const bool keep, bound.Bool(0, false));
  std::string_view text = self.AsString();
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("\n\r\v\f\x1c\x1d\x1e"), text.size());
    const size_t newline = end == text.size() ? 0 : text.substr(end, 2) == "\r\n" ? 2 : 1;
    lines.push_back(text.substr(0, keep ? end + newline : end));
    text.remove_prefix(end + newline);
  }
  return Strings(lines, budget);
}

Result Partition(const Value& self, const Arguments& arguments, bool from_right) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"sep"}));
  SPOTD_ASSIGN_OR_RETURN(const std::string separator, bound.String(0));
  if (separator.empty()) return InvalidArgument("empty separator");
  const std::string& text = self.AsString();
  const size_t at = from_right ? text.rfind(separator) : FindText(text, separator);
  const Value nothing = Value::String("");
  if (at == std::string::npos) {
    return MakeTuple(from_right ? std::vector{nothing, nothing, self}
                                : std::vector{self, nothing, nothing});
  }
  return MakeTuple({Value::String(text.substr(0, at)), Value::String(separator),
                    Value::String(text.substr(at + separator.size()))});
}

Result Replace(const Value& self, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"old", "new", "count"}));
  SPOTD_ASSIGN_OR_RETURN(const std::string old, bound.String(0));
  SPOTD_ASSIGN_OR_RETURN(const std::string replacement, bound.String(1));
  SPOTD_ASSIGN_OR_RETURN(const int64_t count, bound.Int(2, -1));
  if (old.empty()) return Unimplemented("replace of the empty text");
  const auto parts = SplitAt(self.AsString(), old, count < 0 ? kNoLimit : count);
  if (parts.size() > budget->left() / (replacement.size() + 16)) {
    return InvalidArgument("the template does too much work");
  }
  SPOTD_RETURN_IF_ERROR(
      budget->Spend(self.AsString().size() + parts.size() * (replacement.size() + 16)));
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += replacement;
    out += parts[i];
  }
  return Value::String(std::move(out));
}

Result Find(const Value& self, const Arguments& arguments, bool from_right, bool must_exist) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"sub"}));
  SPOTD_ASSIGN_OR_RETURN(const std::string part, bound.String(0));
  const std::string& text = self.AsString();
  const size_t at = from_right ? text.rfind(part) : FindText(text, part);
  if (at == std::string::npos) {
    return must_exist ? Result(InvalidArgument("substring not found")) : Result(Value::Int(-1));
  }
  const auto before = CountCharacters(std::string_view(text).substr(0, at));
  return Value::Int(static_cast<int64_t>(before));
}

Result CountText(const Value& self, const Arguments& arguments) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"sub"}));
  SPOTD_ASSIGN_OR_RETURN(const std::string part, bound.String(0));
  if (part.empty()) return Value::Int(static_cast<int64_t>(CountCharacters(self.AsString())) + 1);
  return Value::Int(static_cast<int64_t>(SplitAt(self.AsString(), part, kNoLimit).size()) - 1);
}

Result Join(const Value& self, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"iterable"}));
  SPOTD_ASSIGN_OR_RETURN(const Value list, bound.Get(0));
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(list, budget));
  std::string out;
  for (size_t i = 0; i < items->size(); ++i) {
    const Value& item = (*items)[i];
    if (!item.Is(Kind::kString)) return InvalidArgument("join of a ", item.TypeName());
    if (i > 0) out += self.AsString();
    out += item.AsString();
    SPOTD_RETURN_IF_ERROR(budget->Spend(self.AsString().size() + item.AsString().size()));
  }
  return Value::String(std::move(out));
}

const MethodTable& StringMethods() {
  static const MethodTable table = {
      {"strip", StripMethod(Strip)},
      {"lstrip", StripMethod(StripLeft)},
      {"rstrip", StripMethod(StripRight)},
      {"upper", TextMap(Upper)},
      {"lower", TextMap(Lower)},
      {"capitalize", TextMap(Capitalize)},
      {"title", TextMap(Title)},
      {"isspace", AllOf(IsSpace)},
      {"isalpha", AllOf(IsLetter)},
      {"isdigit", AllOf(IsDigit)},
      {"isnumeric", AllOf(IsDigit)},
      {"isalnum", AllOf([](uint32_t c) { return IsLetter(c) || IsDigit(c); })},
      {"isupper", IsCase(Upper, Lower)},
      {"islower", IsCase(Lower, Upper)},
      {"startswith", Affix(/*at_start=*/true)},
      {"endswith", Affix(/*at_start=*/false)},
      {"removeprefix", RemoveAffix(/*at_start=*/true)},
      {"removesuffix", RemoveAffix(/*at_start=*/false)},
      {"split", SplitMethod(/*from_right=*/false)},
      {"rsplit", SplitMethod(/*from_right=*/true)},
      {"splitlines", SplitLines},
      {"partition",
       [](const Value& s, const Arguments& a, Budget*) { return Partition(s, a, false); }},
      {"rpartition",
       [](const Value& s, const Arguments& a, Budget*) { return Partition(s, a, true); }},
      {"replace", Replace},
      {"find",
       [](const Value& s, const Arguments& a, Budget*) { return Find(s, a, false, false); }},
      {"rfind",
       [](const Value& s, const Arguments& a, Budget*) { return Find(s, a, true, false); }},
      {"index",
       [](const Value& s, const Arguments& a, Budget*) { return Find(s, a, false, true); }},
      {"rindex",
       [](const Value& s, const Arguments& a, Budget*) { return Find(s, a, true, true); }},
      {"count", [](const Value& s, const Arguments& a, Budget*) { return CountText(s, a); }},
      {"join", Join},
  };
  return table;
}

Result Refuse(const Value& self, const Arguments&, Budget*) {
  return InvalidArgument("a template may not change a ", self.TypeName());
}

Result ListIndex(const Value& self, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"value"}));
  SPOTD_ASSIGN_OR_RETURN(const Value wanted, bound.Get(0));
  SPOTD_RETURN_IF_ERROR(budget->Spend(self.weight()));
  const auto& items = self.AsList();
  const auto found =
      std::find_if(items.begin(), items.end(), [&](const Value& v) { return v.Equals(wanted); });
  if (found == items.end()) return InvalidArgument("the value is not in the list");
  return Value::Int(found - items.begin());
}

Result ListCount(const Value& self, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"value"}));
  SPOTD_ASSIGN_OR_RETURN(const Value wanted, bound.Get(0));
  SPOTD_RETURN_IF_ERROR(budget->Spend(self.weight()));
  const auto& items = self.AsList();
  return Value::Int(
      std::count_if(items.begin(), items.end(), [&](const Value& v) { return v.Equals(wanted); }));
}

Result Copy(const Value& self, const Arguments& arguments, Budget*) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  return self;
}

const MethodTable& ListMethods() {
  static const MethodTable table = {
      {"index", ListIndex}, {"count", ListCount}, {"copy", Copy},    {"append", Refuse},
      {"extend", Refuse},   {"insert", Refuse},   {"pop", Refuse},   {"remove", Refuse},
      {"reverse", Refuse},  {"sort", Refuse},     {"clear", Refuse},
  };
  return table;
}

Result DictGet(const Value& self, const Arguments& arguments, Budget*) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"key", "default"}));
  SPOTD_ASSIGN_OR_RETURN(const Value key, bound.Get(0));
  if (const Value* found = self.Find(key)) return *found;
  return bound.Has(1) ? bound.Get(1) : Value();
}

// keys, values or items, chosen by what `pick` makes of an entry.
Method DictView(std::function<Result(const std::pair<Value, Value>&)> pick) {
  return [pick](const Value& self, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    SPOTD_RETURN_IF_ERROR(budget->Spend(self.AsDict().size()));
    std::vector<Value> items;
    for (const auto& entry : self.AsDict()) {
      SPOTD_ASSIGN_OR_RETURN(Value item, pick(entry));
      items.push_back(std::move(item));
    }
    return MakeList(std::move(items));
  };
}

const MethodTable& DictMethods() {
  static const MethodTable table = {
      {"get", DictGet},
      {"keys", DictView([](const auto& entry) -> Result { return entry.first; })},
      {"values", DictView([](const auto& entry) -> Result { return entry.second; })},
      {"items", DictView([](const auto& entry) {
         return MakeTuple({entry.first, entry.second});
       })},
      {"copy", Copy},
      {"update", Refuse},
      {"pop", Refuse},
      {"popitem", Refuse},
      {"setdefault", Refuse},
      {"clear", Refuse},
  };
  return table;
}

// loop.cycle("odd", "even")
Result Cycle(const Value& self, const Arguments& arguments, Budget*) {
  if (arguments.positional.empty()) return InvalidArgument("no items for cycling given");
  return arguments.positional[self.AsLoop().index % arguments.positional.size()];
}

const MethodTable& LoopMethods() {
  static const MethodTable table = {{"cycle", Cycle}};
  return table;
}

const Method* FindMethod(const Value& object, const std::string& name) {
  const MethodTable* table = object.Is(Kind::kString) ? &StringMethods()
                             : object.Is(Kind::kList) ? &ListMethods()
                             : object.Is(Kind::kDict) ? &DictMethods()
                             : object.Is(Kind::kLoop) ? &LoopMethods()
                                                      : nullptr;
  if (table == nullptr) return nullptr;
  const auto it = table->find(name);
  return it == table->end() ? nullptr : &it->second;
}

}  // namespace

bool HasMethod(const Value& object, const std::string& name) {
  return FindMethod(object, name) != nullptr;
}

Result CallMethod(const Value& object, const std::string& name, const Arguments& arguments,
                  Budget* budget) {
  const Method* method = FindMethod(object, name);
  if (method == nullptr) return InvalidArgument("a ", object.TypeName(), " has no method ", name);
  const size_t size = object.Is(Kind::kString) ? object.AsString().size() / 4 : 0;
  SPOTD_RETURN_IF_ERROR(budget->Spend(size + 1 + arguments.weight()));
  return (*method)(object, arguments, budget);
}

}  // namespace spotd::text::jinja
