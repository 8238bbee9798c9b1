// The arguments of a call, and how functions written in C++ take them.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

struct Arguments {
  // The work of walking over them once, which whoever takes them may do.
  size_t weight() const;

  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments matched to parameters, each by its place or its name.
class Bound {
 public:
  // Too many arguments, an unknown name and an argument given twice are errors.
  static absl::StatusOr<Bound> Bind(const Arguments& arguments,
                                    std::initializer_list<const char*> parameters);

  bool Has(size_t i) const { return values_[i].has_value(); }
  // The argument, or an error when it was not given.
  absl::StatusOr<Value> Get(size_t i) const;
  // Typed arguments; `absent` when not given. None counts as not given.
  absl::StatusOr<int64_t> Int(size_t i, int64_t absent) const;
  absl::StatusOr<bool> Bool(size_t i, bool absent) const;
  absl::StatusOr<std::string> String(size_t i) const;  // must be given
  absl::StatusOr<std::string> String(size_t i, const std::string& absent) const;

 private:
  std::vector<const char*> names_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace spotd::text::jinja
