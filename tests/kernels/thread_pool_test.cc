#include "kernels/core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace spotd {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunCallsEveryThreadOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(GetParam()));
    pool.Run([&](int thread) { ++calls[static_cast<size_t>(thread)]; });
    for (const auto& count : calls) ASSERT_EQ(count.load(), 1);
  }
}

TEST_P(ThreadPoolTest, ParallelForCoversEachIndexOnce) {
  ThreadPool pool(GetParam());
  for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 64, 5000}) {
      std::vector<int> hits(static_cast<size_t>(count));
      pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, GetParam());
        ASSERT_LT(begin, end);
        ASSERT_LE(end - begin, grain);
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const int hit : hits) ASSERT_EQ(hit, 1) << count << " / " << grain;
    }
  }
}

TEST_P(ThreadPoolTest, ParallelForTakesMoreTasksThanALoopHolds) {
  ThreadPool pool(GetParam());
  constexpr int64_t kCount = 200001;
  std::vector<uint8_t> hits(kCount);
  pool.ParallelFor(kCount, 1, [&](int64_t begin, int64_t end, int) {
    ASSERT_EQ(end, begin + 1);
    ++hits[static_cast<size_t>(begin)];
  });
  EXPECT_EQ(std::count(hits.begin(), hits.end(), 1), kCount);
}

// A thread that is held up is not waited for: the others do its share.
TEST_P(ThreadPoolTest, TheOthersDoALateThreadsShare) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> done{0};
  std::vector<std::atomic<int>> tasks(static_cast<size_t>(GetParam()));
  pool.ParallelFor(64, 1, [&](int64_t, int64_t, int thread) {
    ++done;
    ++tasks[static_cast<size_t>(thread)];
    // The caller gets one, however late it comes, and holds it until nothing else is left to do.
    while (tasks[0].load() == 0) std::this_thread::yield();
    while (thread == 0 && GetParam() > 1 && done.load() < 64) std::this_thread::yield();
  });
  EXPECT_EQ(done.load(), 64);
  if (GetParam() > 1) {
    EXPECT_EQ(tasks[0].load(), 1);
  }
}

// Loops that follow each other at once, with changing bodies and sizes: a late worker must never
// run a task of a loop it did not read.
TEST_P(ThreadPoolTest, ShortLoopsInARowDoNotMix) {
  ThreadPool pool(GetParam());
  for (int64_t loop = 0; loop < 20000; ++loop) {
    const int64_t count = 1 + loop % 9;
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(count, 1, [&, loop](int64_t begin, int64_t, int) {  // one index a task
      sum.fetch_add(loop * 100 + begin, std::memory_order_relaxed);
    });
    ASSERT_EQ(sum.load(), count * loop * 100 + count * (count - 1) / 2);
  }
}

TEST_P(ThreadPoolTest, WorkersWakeAfterSleeping) {
  ThreadPool pool(GetParam());
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> calls{0};
    pool.Run([&](int) { ++calls; });
    ASSERT_EQ(calls.load(), GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace spotd
