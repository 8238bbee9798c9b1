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

// Clients refuse trailers of more than 8 KiB: they would see an error without details.
TEST(StatusMapTest, WhatIsLongIsCutBetweenCharacters) {
  std::string name;
  for (int i = 0; i < 100'000; ++i) name += "\u00e4";
  const grpc::Status status = ToGrpcStatus(
      engine::MakeError(absl::StatusCode::kNotFound, "no \"" + name + "\"",
                        {.reason = "SESSION_NOT_FOUND", .field = name, .metadata = {{"a", name}}}));
  EXPECT_LT(3 * status.error_message().size() + status.error_details().size() * 4 / 3, 6000u);
  EXPECT_EQ(status.error_message().substr(0, 6), "no \"\u00e4");
  EXPECT_EQ(status.error_message().substr(status.error_message().size() - 5), "\u00e4...");
  const google::rpc::ErrorInfo info = spotd::testing::InfoOf(status);
  EXPECT_EQ(info.reason(), "SESSION_NOT_FOUND");
  EXPECT_EQ(info.metadata().at("a").size(), 131u);
  EXPECT_EQ(spotd::testing::FieldOf(status).size(), 131u);
}

TEST(StatusMapTest, AnErrorWithoutDetailsStillHasAReason) {
  const grpc::Status status = ToGrpcStatus(absl::DataLossError("corrupt"));
  EXPECT_EQ(status.error_code(), grpc::DATA_LOSS);
  EXPECT_EQ(spotd::testing::InfoOf(status).reason(), "ENGINE_FAULT") << "one of the catalogue";
  EXPECT_FALSE(spotd::testing::RetryOf(status).has_value());
}

}  // namespace
}  // namespace spotd::server
