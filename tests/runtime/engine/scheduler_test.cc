#include "runtime/engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace spotd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kChunk = 100;

RunningView Prefill(int32_t left, int32_t passed_over = 0) {
  RunningView view;
  view.prefilling = true;
  view.prefill_left = left;
  view.passed_over = passed_over;
  return view;
}

RunningView Decode(int32_t blocks_needed = 0) {
  RunningView view;
  view.blocks_needed = blocks_needed;
  return view;
}

RunningView Paused() {
  RunningView view;
  view.ready = false;
  return view;
}

TEST(AdmitTest, Table) {
  const struct {
    const char* what;
    AdmissionState state;
    Admission expected;
  } kRows[] = {
      {"an empty engine", {0, 4, 1, 10, 10}, Admission::kAdmit},
      {"no place among the running", {4, 4, 1, 0, 10}, Admission::kWait},
      {"fewer places than it takes", {2, 4, 3, 0, 10}, Admission::kWait},
      {"no place, and no KV either: the place comes first", {4, 4, 1, 11, 10}, Admission::kWait},
      {"one block short", {1, 4, 1, 11, 10}, Admission::kRefuse},
      {"one block short, but it ran before", {1, 4, 1, 11, 10, true}, Admission::kWait},
      {"needs nothing, though others are owed more than there is",
       {1, 4, 1, 0, -1},
       Admission::kAdmit},
  };
  for (const auto& row : kRows) EXPECT_EQ(Admit(row.state), row.expected) << row.what;
}

TEST(GoesFirstTest, Table) {
  const struct {
    const char* what;
    WaitingView first;
    WaitingView second;
  } kRows[] = {
      {"in order of arrival", {0, 0, 0, 1}, {0, 0, 0, 2}},
      {"priority before arrival", {0, 0, 1, 2}, {0, 0, 0, 1}},
      {"a tenant that was served less, whatever the priority", {0, 5, 0, 2}, {0, 6, 9, 1}},
      {"a tenant with less running, whatever it was served", {1, 900, 0, 2}, {2, 5, 0, 1}},
  };
  for (const auto& row : kRows) {
    EXPECT_TRUE(GoesFirst(row.first, row.second)) << row.what;
    EXPECT_FALSE(GoesFirst(row.second, row.first)) << row.what;
  }
}

// Two tenants with endless prompts take turns, one chunk each.
TEST(PlanStepTest, PrefillIsSharedBetweenTenants) {
  RunningView running[] = {Prefill(100000), Prefill(100000), Prefill(200)};
  running[1].priority = 50;  // of the same tenant as 0
  std::vector<int32_t> order;
  for (int i = 0; i < 6; ++i) {
    const int32_t chosen = *PlanStep(running, {.prefill_chunk = kChunk}).prefill;
    order.push_back(chosen);
    if (chosen == 2) {
      running[2].tenant_served += kChunk;
    } else {
      running[0].tenant_served += kChunk;
      running[1].tenant_served += kChunk;
    }
  }
  EXPECT_THAT(order, ElementsAre(1, 2, 1, 2, 1, 2));
}

TEST(PlanStepTest, NothingToDo) {
  const StepPlan plan = PlanStep({}, {.blocks_available = 5, .prefill_chunk = kChunk});
  EXPECT_THAT(plan.decode, IsEmpty());
  EXPECT_FALSE(plan.prefill);
  EXPECT_FALSE(plan.preempt);
}

TEST(PlanStepTest, EveryDecodeAndOnePrefill) {
  const RunningView running[] = {Decode(), Prefill(300), Decode(), Prefill(200), Decode()};
  const StepPlan plan = PlanStep(running, {.prefill_chunk = kChunk});
  EXPECT_THAT(plan.decode, ElementsAre(0, 2, 4));
  EXPECT_EQ(plan.prefill, 3);
}

TEST(PlanStepTest, PrefillTable) {
  const struct {
    const char* what;
    std::vector<RunningView> running;
    int32_t expected;
  } kRows[] = {
      {"least left first", {Prefill(900), Prefill(100), Prefill(500)}, 1},
      {"chunks count, not tokens: the older goes first", {Prefill(190), Prefill(110)}, 0},
      {"not yet old enough", {Prefill(300, 2 * kAgingSteps - 1), Prefill(100)}, 1},
      {"old enough", {Prefill(300, 2 * kAgingSteps), Prefill(100)}, 0},
  };
  for (const auto& row : kRows) {
    EXPECT_EQ(PlanStep(row.running, {.prefill_chunk = kChunk}).prefill, row.expected) << row.what;
  }
}

// A long prompt against an endless supply of short ones.
TEST(PlanStepTest, NoPrefillStarves) {
  RunningView running[] = {Prefill(2000), Prefill(100)};
  int steps = 0;
  for (; running[0].prefill_left > 0 && steps < 1000; ++steps) {
    const int32_t chosen = *PlanStep(running, {.prefill_chunk = kChunk}).prefill;
    ++running[1 - chosen].passed_over;
    running[chosen].passed_over = 0;
    if (chosen == 0) running[0].prefill_left -= kChunk;
    // The short one is done, and another takes its place.
    if (chosen == 1) running[1] = Prefill(100);
  }
  EXPECT_LE(steps, 20 * 20 * kAgingSteps / 2 + 20);
  EXPECT_GT(steps, 20);
}

TEST(PlanStepTest, KvGoesToTheEarliest) {
  const RunningView running[] = {Decode(1), Decode(2), Decode(1), Decode(0)};
  const StepPlan plan = PlanStep(running, {.blocks_available = 2, .prefill_chunk = kChunk});
  EXPECT_THAT(plan.decode, ElementsAre(0, 2, 3));
  EXPECT_THAT(plan.starved, ElementsAre(1));
  EXPECT_FALSE(plan.preempt);
}

RunningView Priority(RunningView view, int32_t priority) {
  view.priority = priority;
  return view;
}

TEST(PlanStepTest, PreemptTable) {
  const struct {
    const char* what;
    std::vector<RunningView> running;
    bool stalled;
    std::optional<int32_t> expected;
  } kRows[] = {
      {"another decodes", {Decode(1), Decode(0)}, false, std::nullopt},
      {"another prefills", {Decode(1), Prefill(10)}, false, std::nullopt},
      {"alone", {Decode(1)}, false, 0},
      {"the youngest of those that starve", {Decode(1), Decode(1)}, false, 1},
      {"a lower priority rather than the youngest", {Priority(Decode(1), -1), Decode(1)}, false, 0},
      {"another waits for its reader", {Decode(1), Paused()}, false, std::nullopt},
      {"a reader has kept everybody waiting: its sequence goes", {Paused(), Decode(1)}, true, 0},
      {"whatever its priority", {Priority(Paused(), 9), Decode(1)}, true, 0},
      {"nobody starves", {Paused(), Paused()}, true, std::nullopt},
  };
  for (const auto& row : kRows) {
    const StepPlan plan = PlanStep(row.running, {.prefill_chunk = kChunk, .stalled = row.stalled});
    EXPECT_EQ(plan.preempt, row.expected) << row.what;
  }
}

}  // namespace
}  // namespace spotd::engine
