#include "server/status_map.h"

#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/engine/errors.h"
#include "tests/server/test_server.h"

namespace spotd::server {
namespace {

TEST(StatusMapTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(StatusMapTest, EveryDetailArrives) {
  const absl::Status error = engine::MakeError(absl::StatusCode::kResourceExhausted, "no room",
                                               {.reason = "KV_EXHAUSTED",
                                                .field = "prompt",
                                                .metadata = {{"limit", "7"}},
                                                .retry_after = std::chrono::milliseconds(1500)});
  const grpc::Status status = ToGrpcStatus(error);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "no room");
  const google::rpc::ErrorInfo info = spotd::testing::InfoOf(status);
  EXPECT_EQ(info.reason(), "KV_EXHAUSTED");
  EXPECT_EQ(info.metadata().at("limit"), "7");
  EXPECT_EQ(spotd::testing::FieldOf(status), "prompt");
  const auto retry = spotd::testing::RetryOf(status);
  ASSERT_TRUE(retry.has_value());
  EXPECT_EQ(retry->retry_delay().seconds(), 1);
  EXPECT_EQ(retry->retry_delay().nanos(), 500'000'000);
}

TEST(StatusMapTest, AnErrorWithoutDetailsStillHasAReason) {
  const grpc::Status status = ToGrpcStatus(absl::DataLossError("corrupt"));
  EXPECT_EQ(status.error_code(), grpc::DATA_LOSS);
  EXPECT_EQ(spotd::testing::InfoOf(status).reason(), "ENGINE_FAULT") << "one of the catalogue";
  EXPECT_FALSE(spotd::testing::RetryOf(status).has_value());
}

}  // namespace
}  // namespace spotd::server
