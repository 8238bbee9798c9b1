#include <algorithm>

#include "kernels/core/status.h"
#include "runtime/text/jinja/filter_tables.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/tests.h"
#include "runtime/text/jinja/unicode.h"

namespace spotd::text::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<Value>;

Result Length(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  switch (value.kind()) {
    case Kind::kUndefined:
      return Value::Int(0);
    case Kind::kString:
      return Value::Int(static_cast<int64_t>(CountCharacters(value.AsString())));
    case Kind::kList:
      return Value::Int(static_cast<int64_t>(value.AsList().size()));
    case Kind::kDict:
      return Value::Int(static_cast<int64_t>(value.AsDict().size()));
    default:
      return InvalidArgument("a ", value.TypeName(), " has no length");
  }
}

Filter AtEnd(bool first) {
  return [first](const Value& value, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
    SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
    if (items->empty()) return Value::MakeUndefined("No first or last item, sequence was empty.");
    return first ? items->front() : items->back();
  };
}

Result ToList(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  return MakeList(*items);
}

Result Reverse(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  if (value.Is(Kind::kString)) return GetSlice(value, Value(), Value(), Value::Int(-1), budget);
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  return MakeList(std::vector<Value>(items->rbegin(), items->rend()));
}

// The value at "a.b.0" of an item, as map(attribute=...) names it.
Result Lookup(const Value& item, const Value& path, Budget* budget) {
  if (!path.Is(Kind::kString)) return GetItem(item, path, budget);
  Value value = item;
  std::string_view rest = path.AsString();
  while (true) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string part(rest.substr(0, dot));
    const bool number =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    const Value key = number ? Value::Int(std::stoll(part)) : Value::String(part);
    SPOTD_ASSIGN_OR_RETURN(value, GetItem(value, key, budget));
    if (dot == rest.size()) return value;
    rest.remove_prefix(dot + 1);
  }
}

Result Join(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"d", "attribute"}));
  SPOTD_ASSIGN_OR_RETURN(const std::string separator, bound.String(0, ""));
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  std::string out;
  for (size_t i = 0; i < items->size(); ++i) {
    Value item = (*items)[i];
    if (bound.Has(1)) {
      SPOTD_ASSIGN_OR_RETURN(item, Lookup(item, *bound.Get(1), budget));
    }
    SPOTD_ASSIGN_OR_RETURN(const std::string text, Str(item, budget));
    SPOTD_RETURN_IF_ERROR(budget->Spend(separator.size() + 1));
    if (i > 0) out += separator;
    out += text;
  }
  return Value::String(std::move(out));
}

Result DictItems(const Value& value, const Arguments& arguments, Budget*) {
  SPOTD_RETURN_IF_ERROR(Bound::Bind(arguments, {}).status());
  if (value.Is(Kind::kUndefined)) return MakeList({});
  if (!value.Is(Kind::kDict)) return InvalidArgument("items of a ", value.TypeName());
  std::vector<Value> items;
  for (const auto& [key, item] : value.AsDict()) {
    SPOTD_ASSIGN_OR_RETURN(Value pair, MakeTuple({key, item}));
    items.push_back(std::move(pair));
  }
  return MakeList(std::move(items));
}

// What sorting and comparing look at: the item or its attribute, in lower case unless case counts.
Result SortKey(const Value& item, const Value& attribute, bool case_sensitive, Budget* budget) {
  Value key = item;
  if (!attribute.Is(Kind::kNone)) {
    SPOTD_ASSIGN_OR_RETURN(key, Lookup(item, attribute, budget));
  }
  return !case_sensitive && key.Is(Kind::kString) ? Value::String(Lower(key.AsString())) : key;
}

using Keyed = std::vector<std::pair<Value, Value>>;  // key, item

absl::StatusOr<Keyed> WithKeys(const Items& items, const Value& attribute, bool case_sensitive,
                               Budget* budget) {
  Keyed keyed;
  for (const Value& item : *items) {
    SPOTD_ASSIGN_OR_RETURN(Value key, SortKey(item, attribute, case_sensitive, budget));
    keyed.emplace_back(std::move(key), item);
  }
  return keyed;
}

// Stable. The first comparison that fails decides the status; the order is then of no use.
absl::Status SortByKey(Keyed* items, bool reverse, Budget* budget) {
  absl::Status status;
  const auto less = [&](const auto& a, const auto& b) {
    if (!status.ok()) return false;
    const auto result = reverse ? Less(b.first, a.first, budget) : Less(a.first, b.first, budget);
    if (!result.ok()) status = result.status();
    return result.ok() && *result;
  };
  SPOTD_RETURN_IF_ERROR(budget->Spend(items->size() * 20));
  std::stable_sort(items->begin(), items->end(), less);
  return status;
}

Result ItemsOf(const Keyed& keyed) {
  std::vector<Value> items;
  for (const auto& [key, item] : keyed) items.push_back(item);
  return MakeList(std::move(items));
}

Result Sort(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound,
                         Bound::Bind(arguments, {"reverse", "case_sensitive", "attribute"}));
  SPOTD_ASSIGN_OR_RETURN(const bool reverse, bound.Bool(0, false));
  SPOTD_ASSIGN_OR_RETURN(const bool case_sensitive, bound.Bool(1, false));
  const Value attribute = bound.Has(2) ? *bound.Get(2) : Value();
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  SPOTD_ASSIGN_OR_RETURN(Keyed keyed, WithKeys(items, attribute, case_sensitive, budget));
  SPOTD_RETURN_IF_ERROR(SortByKey(&keyed, reverse, budget));
  return ItemsOf(keyed);
}

Result DictSort(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound,
                         Bound::Bind(arguments, {"case_sensitive", "by", "reverse"}));
  SPOTD_ASSIGN_OR_RETURN(const bool case_sensitive, bound.Bool(0, false));
  SPOTD_ASSIGN_OR_RETURN(const std::string by, bound.String(1, "key"));
  SPOTD_ASSIGN_OR_RETURN(const bool reverse, bound.Bool(2, false));
  SPOTD_ASSIGN_OR_RETURN(const Value pairs, DictItems(value, Arguments{}, budget));
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(pairs, budget));
  const Value attribute = Value::Int(by == "key" ? 0 : 1);
  SPOTD_ASSIGN_OR_RETURN(Keyed keyed, WithKeys(items, attribute, case_sensitive, budget));
  SPOTD_RETURN_IF_ERROR(SortByKey(&keyed, reverse, budget));
  return ItemsOf(keyed);
}

Filter Extreme(bool max) {
  return [max](const Value& value, const Arguments& arguments, Budget* budget) -> Result {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound,
                           Bound::Bind(arguments, {"case_sensitive", "attribute"}));
    SPOTD_ASSIGN_OR_RETURN(const bool case_sensitive, bound.Bool(0, false));
    const Value attribute = bound.Has(1) ? *bound.Get(1) : Value();
    SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
    SPOTD_ASSIGN_OR_RETURN(const Keyed keyed, WithKeys(items, attribute, case_sensitive, budget));
    if (keyed.empty()) return Value::MakeUndefined("No aggregated item, sequence was empty.");
    size_t best = 0;
    for (size_t i = 1; i < keyed.size(); ++i) {
      SPOTD_ASSIGN_OR_RETURN(const bool better,
                             max ? Less(keyed[best].first, keyed[i].first, budget)
                                 : Less(keyed[i].first, keyed[best].first, budget));
      if (better) best = i;
    }
    return keyed[best].second;
  };
}

Result Sum(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"attribute", "start"}));
  Value total = bound.Has(1) ? *bound.Get(1) : Value::Int(0);
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  for (Value item : *items) {
    if (bound.Has(0) && !bound.Get(0)->Is(Kind::kNone)) {
      SPOTD_ASSIGN_OR_RETURN(item, Lookup(item, *bound.Get(0), budget));
    }
    SPOTD_ASSIGN_OR_RETURN(total, Arithmetic("+", total, item, budget));
  }
  return total;
}

Result Unique(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Bound bound,
                         Bound::Bind(arguments, {"case_sensitive", "attribute"}));
  SPOTD_ASSIGN_OR_RETURN(const bool case_sensitive, bound.Bool(0, false));
  const Value attribute = bound.Has(1) ? *bound.Get(1) : Value();
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  SPOTD_ASSIGN_OR_RETURN(const Keyed keyed, WithKeys(items, attribute, case_sensitive, budget));
  Keyed kept;
  for (const auto& entry : keyed) {
    SPOTD_RETURN_IF_ERROR(budget->Spend(kept.size() + entry.first.weight()));
    const bool seen = std::any_of(kept.begin(), kept.end(), [&](const auto& other) {
      return other.first.Equals(entry.first);
    });
    if (!seen) kept.push_back(entry);
  }
  return ItemsOf(kept);
}

// map("upper") applies a filter to each item, map(attribute="name") takes an attribute of each.
Result Map(const Value& value, const Arguments& arguments, Budget* budget) {
  SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
  std::vector<Value> mapped;
  if (arguments.positional.empty()) {
    SPOTD_ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(arguments, {"attribute", "default"}));
    SPOTD_ASSIGN_OR_RETURN(const Value path, bound.Get(0));
    for (const Value& item : *items) {
      SPOTD_ASSIGN_OR_RETURN(Value found, Lookup(item, path, budget));
      const bool replaced = found.Is(Kind::kUndefined) && bound.Has(1);
      mapped.push_back(replaced ? *bound.Get(1) : std::move(found));
    }
    return MakeList(std::move(mapped));
  }
  const Value& name = arguments.positional[0];
  if (!name.Is(Kind::kString)) return InvalidArgument("map needs the name of a filter");
  if (name.AsString() == "map") return InvalidArgument("map cannot be mapped");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (const Value& item : *items) {
    SPOTD_ASSIGN_OR_RETURN(Value result, ApplyFilter(name.AsString(), item, rest, budget));
    mapped.push_back(std::move(result));
  }
  return MakeList(std::move(mapped));
}

// select, reject, selectattr, rejectattr: keeps the items for which a test says `wanted`; without
// one, truth decides.
Filter Selection(bool by_attribute, bool wanted) {
  return [by_attribute, wanted](const Value& value, const Arguments& arguments,
                                Budget* budget) -> Result {
    Arguments rest = arguments;
    const auto take = [&rest] {
      Value front = rest.positional.front();
      rest.positional.erase(rest.positional.begin());
      return front;
    };
    if (by_attribute && rest.positional.empty()) return InvalidArgument("the attribute is missing");
    const Value attribute = by_attribute ? take() : Value();
    const Value test = rest.positional.empty() ? Value() : take();
    if (!test.Is(Kind::kNone) && !test.Is(Kind::kString))
      return InvalidArgument("the test is not a name");
    SPOTD_ASSIGN_OR_RETURN(const Items items, Iterate(value, budget));
    std::vector<Value> kept;
    for (const Value& item : *items) {
      Value subject = item;
      if (by_attribute) {
        SPOTD_ASSIGN_OR_RETURN(subject, Lookup(item, attribute, budget));
      }
      SPOTD_ASSIGN_OR_RETURN(
          const bool yes, test.Is(Kind::kNone) ? absl::StatusOr<bool>(subject.Truth())
                                               : ApplyTest(test.AsString(), subject, rest, budget));
      if (yes == wanted) kept.push_back(item);
    }
    return MakeList(std::move(kept));
  };
}

}  // namespace

const FilterTable& ListFilters() {
  static const FilterTable table = {
      {"length", Length},
      {"count", Length},
      {"first", AtEnd(/*first=*/true)},
      {"last", AtEnd(/*first=*/false)},
      {"list", ToList},
      {"reverse", Reverse},
      {"join", Join},
      {"items", DictItems},
      {"sort", Sort},
      {"dictsort", DictSort},
      {"min", Extreme(/*max=*/false)},
      {"max", Extreme(/*max=*/true)},
      {"sum", Sum},
      {"unique", Unique},
  };
  return table;
}

const FilterTable& SelectFilters() {
  static const FilterTable table = {
      {"map", Map},
      {"select", Selection(/*by_attribute=*/false, /*wanted=*/true)},
      {"reject", Selection(/*by_attribute=*/false, /*wanted=*/false)},
      {"selectattr", Selection(/*by_attribute=*/true, /*wanted=*/true)},
      {"rejectattr", Selection(/*by_attribute=*/true, /*wanted=*/false)},
  };
  return table;
}

}  // namespace spotd::text::jinja
