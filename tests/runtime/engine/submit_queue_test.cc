#include "runtime/engine/submit_queue.h"

#include <gtest/gtest.h>

#include <thread>

#include "runtime/engine/sequence.h"

namespace spotd::engine {
namespace {

TEST(SubmitQueueTest, PlacesAreBoundedAndComeBack) {
  SubmitQueue queue(2);
  std::optional<QueuePlace> first = queue.Enter();
  std::optional<QueuePlace> second = queue.Enter();
  EXPECT_TRUE(first && second);
  EXPECT_FALSE(queue.Enter());
  QueuePlace moved = std::move(*first);
  first.reset();
  EXPECT_FALSE(queue.Enter()) << "a moved-from place gave something back";
  moved.Leave();
  moved.Leave();
  EXPECT_TRUE(queue.Enter());
}

TEST(SubmitQueueTest, CommandsKeepTheirOrder) {
  SubmitQueue queue(1);
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(queue.Put([&order, i] { order.push_back(i); }));
  for (auto& item : queue.Take()) std::get<SubmitQueue::Command>(item)();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(queue.Take().empty());
}

TEST(SubmitQueueTest, AClosedQueueTakesNothing) {
  SubmitQueue queue(1);
  queue.Close();
  EXPECT_FALSE(queue.Put([] {}));
  EXPECT_TRUE(queue.closed());
  queue.Wait(std::nullopt);  // returns
}

TEST(SubmitQueueTest, WaitingEndsWithTheFirstItem) {
  SubmitQueue queue(1);
  queue.Wait(std::chrono::microseconds(1));
  std::thread putter([&] { queue.Put([] {}); });
  queue.Wait(std::nullopt);
  EXPECT_EQ(queue.Take().size(), 1u);
  putter.join();
}

}  // namespace
}  // namespace spotd::engine
