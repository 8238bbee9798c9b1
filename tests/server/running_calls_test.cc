#include "server/running_calls.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "runtime/engine/errors.h"

namespace spotd::server {
namespace {

using Cause = engine::CancelToken::Cause;

std::string ReasonOf(const absl::Status& status) {
  return engine::GetErrorDetails(status).reason;
}

struct RunningCall {
  std::shared_ptr<engine::CancelToken> cancel = std::make_shared<engine::CancelToken>();
  // As a stream's: whoever ends calls may hold the function when the call is gone.
  std::shared_ptr<std::atomic<int>> told = std::make_shared<std::atomic<int>>(0);
  RunningCalls::Handle handle;

  void Announce(RunningCalls* calls, RunningCalls::Names names, bool uploads) {
    handle = uploads ? calls->Add(std::move(names), cancel, [told = told] { ++*told; })
                     : calls->Add(std::move(names), cancel);
  }
};

TEST(RunningCallsTest, EndsCallsOfTheTenantByIdOrSession) {
  RunningCalls calls;
  RunningCall mine, same, other;
  mine.Announce(&calls, {"a", "1", "sessions/x"}, true);
  same.Announce(&calls, {"b", "1", "sessions/x"}, true);
  other.Announce(&calls, {"a", "2", "sessions/x"}, false);
  EXPECT_EQ(calls.AbortCall("a", "1"), 1);
  EXPECT_EQ(mine.cancel->cause(), Cause::kAborted);
  EXPECT_EQ(mine.told->load(), 1);
  EXPECT_EQ(other.cancel->cause(), Cause::kNone);
  EXPECT_EQ(calls.AbortSession("a", "sessions/x"), 2);
  EXPECT_EQ(other.cancel->cause(), Cause::kAborted);
  EXPECT_EQ(same.cancel->cause(), Cause::kNone) << "another tenant's";
  mine.handle = {};
  EXPECT_EQ(calls.AbortCall("a", "1"), 0) << "it has ended";
}

TEST(RunningCallsTest, DrainsUploadsFirst) {
  RunningCalls calls;
  RunningCall upload, sent, running;
  upload.Announce(&calls, {"a", "1", ""}, true);
  sent.Announce(&calls, {"a", "2", ""}, true);
  sent.Announce(&calls, {"a", "2", ""}, false);  // the client has half-closed
  running.Announce(&calls, {"a", "3", ""}, false);
  EXPECT_FALSE(calls.drains_uploads());
  calls.DrainUploads();
  EXPECT_TRUE(calls.drains_uploads());
  EXPECT_EQ(upload.cancel->cause(), Cause::kDrained);
  EXPECT_EQ(upload.told->load(), 1);
  EXPECT_EQ(sent.cancel->cause(), Cause::kNone);
  EXPECT_EQ(running.cancel->cause(), Cause::kNone);
  calls.DrainAll();
  EXPECT_EQ(sent.cancel->cause(), Cause::kDrained);
  EXPECT_EQ(running.cancel->cause(), Cause::kDrained);
}

TEST(RunningCallsTest, BoundsUploads) {
  RunningCalls calls({.all = 2});
  EXPECT_TRUE(calls.EnterUpload("a").ok());
  EXPECT_TRUE(calls.EnterUpload("a").ok());
  EXPECT_EQ(ReasonOf(calls.EnterUpload("b")), "UPLOAD_LIMIT");
  EXPECT_EQ(calls.uploads(), 2);
  calls.LeaveUpload("a");
  EXPECT_TRUE(calls.EnterUpload("b").ok());
}

TEST(RunningCallsTest, LeavesUploadsToOtherTenants) {
  RunningCalls calls({.all = 5, .tenant_percent = 50});
  EXPECT_TRUE(calls.EnterUpload("a").ok());
  EXPECT_TRUE(calls.EnterUpload("a").ok());
  EXPECT_EQ(ReasonOf(calls.EnterUpload("a")), "TENANT_UPLOAD_LIMIT");
  EXPECT_TRUE(calls.EnterUpload("b").ok());
  calls.LeaveUpload("a");
  EXPECT_TRUE(calls.EnterUpload("a").ok());
  RunningCalls few({.all = 1, .tenant_percent = 50});
  EXPECT_TRUE(few.EnterUpload("a").ok()) << "a tenant may always have one";
  RunningCalls any({.all = 0, .tenant_percent = 1});
  EXPECT_TRUE(any.EnterUpload("a").ok());
  EXPECT_TRUE(any.EnterUpload("a").ok()) << "a share of no bound is none";
}

TEST(RunningCallsTest, EndsUploadsThatStall) {
  RunningCalls calls;
  RunningCall stalled, heard, sent;
  stalled.Announce(&calls, {"a", "1", ""}, true);
  heard.Announce(&calls, {"a", "2", ""}, true);
  sent.Announce(&calls, {"a", "3", ""}, false);
  const auto before = engine::Clock::now() + std::chrono::nanoseconds(1);
  while (engine::Clock::now() < before) {
  }
  heard.handle.Heard();
  calls.EndStalledUploads(before);
  EXPECT_EQ(stalled.cancel->cause(), Cause::kStalled);
  EXPECT_EQ(stalled.told->load(), 1);
  EXPECT_EQ(heard.cancel->cause(), Cause::kNone);
  EXPECT_EQ(sent.cancel->cause(), Cause::kNone) << "it waits for the server, not for its client";
}

// Calls come, change and go while others end them.
TEST(RunningCallsTest, FromManyThreadsAtOnce) {
  RunningCalls calls({.all = 3});
  std::atomic<bool> stop = false;
  std::thread aborter([&] {
    while (!stop) {
      calls.AbortSession("a", "sessions/x");
      calls.DrainUploads();
      calls.EndStalledUploads(engine::Clock::now());
    }
  });
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const bool entered = calls.EnterUpload("a").ok();
        RunningCall call;
        call.Announce(&calls, {"a", "1", ""}, true);
        call.Announce(&calls, {"a", "1", "sessions/x"}, true);
        std::this_thread::yield();
        call.handle.Heard();
        call.Announce(&calls, {"a", "1", "sessions/x"}, false);
        if (entered) calls.LeaveUpload("a");
      }
    });
  }
  for (std::thread& client : clients) client.join();
  stop = true;
  aborter.join();
  EXPECT_TRUE(calls.EnterUpload("a").ok());
}

}  // namespace
}  // namespace spotd::server
