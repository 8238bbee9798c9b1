// One compiled regular expression over UTF-8 with Unicode classes (PCRE2, just-in-time compiled
// where possible).
//
// Patterns come from model files and subjects from clients, so work per match is bounded: an
// expression that backtracks without end on some text gives an error, not a hang. Thread-safety:
// const methods from any number of threads.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace spotd::text {

class Regex {
 public:
  // INVALID_ARGUMENT names the pattern and where it does not parse. UNIMPLEMENTED for escapes that
  // mean another thing in Oniguruma, the library that model files are written for (\w, \b, \h and
  // their opposites).
  static absl::StatusOr<Regex> Compile(const std::string& pattern);

  enum class Outcome { kMatch, kNoMatch, kTooMuchWork };
  // The first match in `subject` (valid UTF-8) that begins at or after `from`; [*begin, *end) may
  // be empty.
  Outcome Find(std::string_view subject, size_t from, size_t* begin, size_t* end) const;

  const std::string& pattern() const { return pattern_; }

 private:
  Regex(std::string pattern, std::shared_ptr<const void> code, bool compiled_to_machine_code)
      : pattern_(std::move(pattern)), code_(std::move(code)), jit_(compiled_to_machine_code) {}

  std::string pattern_;
  std::shared_ptr<const void> code_;  // pcre2_code; the library's header stays out of this one
  bool jit_;
};

}  // namespace spotd::text
