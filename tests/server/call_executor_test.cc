#include "server/call_executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>

namespace spotd::server {
namespace {

TEST(CallExecutorTest, OneThreadRunsTasksInTheirOrder) {
  std::vector<int> ran;
  {
    CallExecutor executor(1, 1000);
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(executor.Submit([&ran, i] { ran.push_back(i); }));
    }
  }
  ASSERT_EQ(ran.size(), 100u) << "the destructor runs what is queued";
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ran[i], i);
}

TEST(CallExecutorTest, RefusesMoreThanMayWait) {
  std::promise<void> go;
  std::promise<void> started;
  CallExecutor executor(1, 2);  // its end waits for the task, which uses them
  ASSERT_TRUE(executor.Submit([&] {
    started.set_value();
    go.get_future().wait();
  }));
  started.get_future().wait();
  EXPECT_TRUE(executor.Submit([] {}));
  EXPECT_TRUE(executor.Submit([] {}));
  EXPECT_FALSE(executor.Submit([] { FAIL() << "was refused"; }));
  go.set_value();
}

TEST(CallExecutorTest, AnyThreadMaySubmitAlsoATaskItself) {
  std::atomic<int> ran = 0;
  {
    CallExecutor executor(3, 100'000);
    std::vector<std::thread> clients;
    for (int client = 0; client < 4; ++client) {
      clients.emplace_back([&] {
        for (int i = 0; i < 500; ++i) {
          const bool queued = executor.Submit([&, text = std::make_unique<int>(i).release()] {
            delete text;
            if (executor.Submit([&ran] { ++ran; })) ++ran;
          });
          EXPECT_TRUE(queued);
        }
      });
    }
    for (std::thread& client : clients) client.join();
  }
  EXPECT_EQ(ran.load(), 2 * 4 * 500);
}

}  // namespace
}  // namespace spotd::server
