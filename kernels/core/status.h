// Status propagation for a tree built on Debian 12's Abseil (20220623), which has no status macros.
//
// Functions that can fail for reasons outside the program (input, environment) return absl::Status
// or absl::StatusOr<T>. Impossible states are SPOTD_CHECKs (check.h). No spotd function throws.
#pragma once

#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SPOTD_CONCAT_INNER(a, b) a##b
#define SPOTD_CONCAT(a, b) SPOTD_CONCAT_INNER(a, b)

// Returns the status from the enclosing function unless it is OK.
#define SPOTD_RETURN_IF_ERROR(expr)                                   \
  do {                                                                \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

// SPOTD_ASSIGN_OR_RETURN(auto x, F()): assigns the value, or returns the error from the enclosing
// function.
#define SPOTD_ASSIGN_OR_RETURN(lhs, expr) \
  SPOTD_ASSIGN_OR_RETURN_IMPL(SPOTD_CONCAT(status_or_, __LINE__), lhs, expr)
#define SPOTD_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return std::move(tmp).status();    \
  lhs = *std::move(tmp)

namespace spotd {

// Streams its arguments into one string. Abseil's StrCat of this release rejects std::string_view.
template <typename... Args>
std::string Concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

template <typename... Args>
absl::Status InvalidArgument(const Args&... args) {
  return absl::InvalidArgumentError(Concat(args...));
}
template <typename... Args>
absl::Status FailedPrecondition(const Args&... args) {
  return absl::FailedPreconditionError(Concat(args...));
}
template <typename... Args>
absl::Status ResourceExhausted(const Args&... args) {
  return absl::ResourceExhaustedError(Concat(args...));
}
template <typename... Args>
absl::Status NotFound(const Args&... args) {
  return absl::NotFoundError(Concat(args...));
}
template <typename... Args>
absl::Status Unimplemented(const Args&... args) {
  return absl::UnimplementedError(Concat(args...));
}
template <typename... Args>
absl::Status DataLoss(const Args&... args) {
  return absl::DataLossError(Concat(args...));
}
template <typename... Args>
absl::Status Internal(const Args&... args) {
  return absl::InternalError(Concat(args...));
}

}  // namespace spotd
