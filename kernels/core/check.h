// Assertions on states that only a bug can reach. They stay on in release builds: a wrong block
// table is better stopped than served. Untrusted input is never checked this way; it gets an
// absl::Status.
#pragma once

namespace spotd {

// Prints file, line and the failed condition to stderr, then aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace spotd

#define SPOTD_CHECK(condition)                                              \
  do {                                                                      \
    if (!(condition)) ::spotd::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)
