#include "runtime/engine/errors.h"

#include <gtest/gtest.h>

#include "runtime/engine/error_reasons.h"

namespace spotd::engine {
namespace {

TEST(ErrorsTest, DetailsSurviveTheStatus) {
  const ErrorDetails details = {.reason = reason::kContextOverflow,
                                .field = "prompt[0].text: \n\"x\"",
                                .metadata = {{"limit", "8192"}, {"got", "9:000"}, {"", ""}},
                                .retry_after = std::chrono::milliseconds(1500)};
  const absl::Status status = MakeError(absl::StatusCode::kOutOfRange, "too long", details);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(status.message(), "too long");
  const ErrorDetails back = GetErrorDetails(status);
  EXPECT_EQ(back.reason, details.reason);
  EXPECT_EQ(back.field, details.field);
  EXPECT_EQ(back.metadata, details.metadata);
  EXPECT_EQ(back.retry_after, details.retry_after);
}

TEST(ErrorsTest, AbsentDetailsStayAbsent) {
  const ErrorDetails back = GetErrorDetails(
      MakeError(absl::StatusCode::kNotFound, "gone", {.reason = reason::kSessionNotFound}));
  EXPECT_EQ(back.reason, "SESSION_NOT_FOUND");
  EXPECT_EQ(back.field, "");
  EXPECT_TRUE(back.metadata.empty());
  EXPECT_FALSE(back.retry_after);
}

TEST(ErrorsTest, AStatusWithoutDetailsGetsAReasonOfTheCatalogue) {
  EXPECT_EQ(GetErrorDetails(absl::InternalError("x")).reason, reason::kEngineFault);
  EXPECT_EQ(GetErrorDetails(absl::UnknownError("x")).reason, reason::kEngineFault);
  EXPECT_EQ(GetErrorDetails(absl::InvalidArgumentError("x")).reason, reason::kInvalidField);
  EXPECT_EQ(GetErrorDetails(absl::CancelledError("x")).reason, reason::kCancelled);
  EXPECT_EQ(GetErrorDetails(absl::DeadlineExceededError("x")).reason, reason::kDeadlineExceeded);
}

}  // namespace
}  // namespace spotd::engine
