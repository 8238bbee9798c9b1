#include "runtime/engine/submit_queue.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>

#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/sequence.h"

namespace spotd::engine {
namespace {

std::string ReasonOf(const absl::Status& status) {
  return GetErrorDetails(status).reason;
}

TEST(SubmitQueueTest, PlacesAreBoundedAndComeBack) {
  SubmitQueue queue({.requests = 2});
  std::optional<QueuePlace> first = *queue.Enter("a");
  absl::StatusOr<QueuePlace> second = queue.Enter("a");
  EXPECT_TRUE(second.ok());
  const absl::Status full = queue.Enter("b").status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), reason::kQueueFull);
  EXPECT_TRUE(GetErrorDetails(full).retry_after);
  QueuePlace moved = std::move(*first);
  first.reset();
  EXPECT_FALSE(queue.Enter("a").ok()) << "a moved-from place gave something back";
  moved.Leave();
  moved.Leave();
  EXPECT_TRUE(queue.Enter("a").ok());
}

TEST(SubmitQueueTest, ATenantsPlacesAreBoundedByThemselves) {
  SubmitQueue queue({.requests = 3, .requests_per_tenant = 1});
  {
    const auto a = queue.Enter("a");
    ASSERT_TRUE(a.ok());
    EXPECT_EQ(ReasonOf(queue.Enter("a").status()), reason::kTenantRequestLimit);
    EXPECT_TRUE(queue.Enter("b").ok());
  }
  EXPECT_TRUE(queue.Enter("a").ok());
}

TEST(SubmitQueueTest, WaitingTokensAreBounded) {
  SubmitQueue queue({.requests = 9, .waiting_tokens = 100});
  QueuePlace huge = *queue.Enter("a");
  EXPECT_TRUE(huge.Hold(1000).ok()) << "nothing else waits";
  QueuePlace small = *queue.Enter("a");
  const absl::Status full = small.Hold(1);
  EXPECT_EQ(ReasonOf(full), reason::kQueueFull);
  EXPECT_EQ(GetErrorDetails(full).metadata["limit"], "100");
  EXPECT_EQ(queue.waiting_tokens(), 1000);
  huge.Begin();
  EXPECT_TRUE(small.Hold(60).ok());
  QueuePlace other = *queue.Enter("b");
  EXPECT_FALSE(other.Hold(41).ok());
  EXPECT_TRUE(other.Hold(40).ok());
  small.Leave();
  EXPECT_EQ(queue.waiting_tokens(), 40);
}

TEST(SubmitQueueTest, CommandsKeepTheirOrder) {
  SubmitQueue queue({.requests = 1});
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(queue.Put([&order, i] { order.push_back(i); }));
  for (auto& item : queue.Take()) std::get<SubmitQueue::Command>(item)();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(queue.Take().empty());
}

TEST(SubmitQueueTest, AClosedQueueTakesNothing) {
  SubmitQueue queue({.requests = 1});
  queue.Close();
  EXPECT_FALSE(queue.Put([] {}));
  EXPECT_TRUE(queue.closed());
  queue.Wait(std::nullopt);  // returns
}

TEST(SubmitQueueTest, WaitingEndsWithTheFirstItem) {
  SubmitQueue queue({.requests = 1});
  queue.Wait(std::chrono::microseconds(1));
  std::thread putter([&] { queue.Put([] {}); });
  queue.Wait(std::nullopt);
  EXPECT_EQ(queue.Take().size(), 1u);
  putter.join();
}

}  // namespace
}  // namespace spotd::engine
