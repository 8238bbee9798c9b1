// What operators, subscripts and iteration do to values, as in Python.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

// Error messages name types and operators; the interpreter adds where it happened.

// `op` is + - * / // % or **.
absl::StatusOr<Value> Arithmetic(std::string_view op, const Value& left, const Value& right,
                                 Budget* budget);
absl::StatusOr<Value> Negate(const Value& value);

// `op` is == != < <= > >= in, or not in.
absl::StatusOr<bool> Compare(std::string_view op, const Value& left, const Value& right,
                             Budget* budget);
// left < right, for numbers, strings and lists.
absl::StatusOr<bool> Less(const Value& left, const Value& right, Budget* budget);

// object.name and object[key]; what does not exist is undefined.
absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name);
absl::StatusOr<Value> GetItem(const Value& object, const Value& key, Budget* budget);
// object[start:stop:step]; none stands for a part that is not given.
absl::StatusOr<Value> GetSlice(const Value& object, const Value& start, const Value& stop,
                               const Value& step, Budget* budget);

// The values that `for` sees: items of a list, keys of a dict, characters of a string; undefined
// has none.
using Items = std::shared_ptr<const std::vector<Value>>;
absl::StatusOr<Items> Iterate(const Value& value, Budget* budget);

// Where `needle` is in `text` from `from` on; npos when it is not there. Linear time.
size_t FindText(std::string_view text, std::string_view needle, size_t from = 0);

}  // namespace spotd::text::jinja
