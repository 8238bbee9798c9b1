#include "server/running_calls.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace spotd::server {
namespace {

using Cause = engine::CancelToken::Cause;

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
  RunningCalls calls(2);
  EXPECT_TRUE(calls.EnterUpload());
  EXPECT_TRUE(calls.EnterUpload());
  EXPECT_FALSE(calls.EnterUpload());
  EXPECT_EQ(calls.uploads(), 2);
  calls.LeaveUpload();
  EXPECT_TRUE(calls.EnterUpload());
}

// Calls come, change and go while others end them.
TEST(RunningCallsTest, FromManyThreadsAtOnce) {
  RunningCalls calls(3);
  std::atomic<bool> stop = false;
  std::thread aborter([&] {
    while (!stop) {
      calls.AbortSession("a", "sessions/x");
      calls.DrainUploads();
    }
  });
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const bool entered = calls.EnterUpload();
        RunningCall call;
        call.Announce(&calls, {"a", "1", ""}, true);
        call.Announce(&calls, {"a", "1", "sessions/x"}, true);
        std::this_thread::yield();
        call.Announce(&calls, {"a", "1", "sessions/x"}, false);
        if (entered) calls.LeaveUpload();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  stop = true;
  aborter.join();
  EXPECT_TRUE(calls.EnterUpload());
}

}  // namespace
}  // namespace spotd::server
