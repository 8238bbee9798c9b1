// Runs a parsed template.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/value.h"

namespace spotd::text::jinja {

// Names and their values at one level of the template.
class Scope {
 public:
  explicit Scope(Scope* parent) : parent_(parent) {}
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  void Set(const std::string& name, Value value);
  const Value* Find(
      const std::string& name) const;  // here or further out; nullptr when there is none

 private:
  Scope* parent_;
  std::map<std::string, Value> values_;
};

struct RenderOptions {
  size_t max_work = size_t{256} << 20;        // bytes and values made or walked over
  std::chrono::system_clock::time_point now;  // of strftime_now, in local time
};

// `globals` are the variables that the template sees, beside the functions namespace, range, dict,
// raise_exception and strftime_now. INVALID_ARGUMENT has the position of what failed, or is the
// text that the template gave to raise_exception. Any number of threads may render one template.
absl::StatusOr<std::string> Render(const Body& body,
                                   std::vector<std::pair<std::string, Value>> globals,
                                   const RenderOptions& options);

}  // namespace spotd::text::jinja
