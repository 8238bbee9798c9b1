#include "server/call.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "server/rpc_metrics.h"
#include "server/running_calls.h"

namespace spotd::server {
namespace {

class CallTest : public ::testing::Test {
 protected:
  CallTest() {
    context_.metrics = &metrics_;
    call_.emplace(context_, "Complete", &grpc_context_);
    call_->set_session("sessions/a");
    call_->Announce(calls_.get(), cancel_);
  }

  RpcMetrics metrics_;
  ServiceContext context_;
  grpc::CallbackServerContext grpc_context_;
  std::unique_ptr<RunningCalls> calls_ = std::make_unique<RunningCalls>();
  const std::shared_ptr<engine::CancelToken> cancel_ = std::make_shared<engine::CancelToken>();
  std::optional<Call> call_;
};

TEST_F(CallTest, IsKnownFromItsAnnouncementToItsFinish) {
  EXPECT_EQ(calls_->AbortSession(call_->tenant(), "sessions/b"), 0);
  EXPECT_EQ(calls_->AbortSession(call_->tenant(), "sessions/a"), 1);
  EXPECT_TRUE(call_->Finish(absl::OkStatus()).ok());
  EXPECT_EQ(calls_->AbortSession(call_->tenant(), "sessions/a"), 0);
}

// The thread that finished a call may let go of it after gRPC and the server are gone.
TEST_F(CallTest, MayOutliveTheServersListOnceFinished) {
  EXPECT_TRUE(call_->Finish(absl::OkStatus()).ok());
  calls_.reset();
  call_.reset();
  EXPECT_EQ(metrics_.in_progress(), 0);
}

}  // namespace
}  // namespace spotd::server
