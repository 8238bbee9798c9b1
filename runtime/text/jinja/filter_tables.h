// The filters by what they work on; filters.cc joins the tables. Not for use elsewhere.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/arguments.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

using Filter = std::function<absl::StatusOr<Value>(const Value& value, const Arguments& arguments,
                                                   Budget* budget)>;
using FilterTable = std::map<std::string, Filter>;

const FilterTable& TextFilters();  // trim, upper, replace, tojson, ...
const FilterTable& ListFilters();  // first, join, sort, unique, ...
const FilterTable&
SelectFilters();  // map, select, rejectattr, ...: those that take the name of a filter or test

}  // namespace spotd::text::jinja
