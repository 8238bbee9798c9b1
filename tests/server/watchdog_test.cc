#include "server/watchdog.h"

#include <gtest/gtest.h>

namespace spotd::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Verdict = Watchdog::Verdict;

class WatchdogTest : public ::testing::Test {
 protected:
  Verdict Look(seconds passed) {
    now_ += passed;
    return watchdog_.Look(heartbeat_, now_);
  }
  void Beat() { ++heartbeat_.beats; }

  std::chrono::steady_clock::time_point now_{seconds(1000)};
  Watchdog watchdog_{seconds(10), now_};
  Heartbeat heartbeat_;
};

TEST_F(WatchdogTest, WithNothingToDoItMaySleepForEver) {
  EXPECT_EQ(Look(seconds(3600)), Verdict::kIdle);
  EXPECT_EQ(Look(seconds(3600)), Verdict::kIdle);
  heartbeat_.pending = true;
  EXPECT_EQ(Look(seconds(9)), Verdict::kBusy) << "it has just been given something";
}

TEST_F(WatchdogTest, ALoopThatDoesNotBeatWithWorkPendingHangs) {
  heartbeat_.pending = true;
  EXPECT_EQ(Look(seconds(10)), Verdict::kBusy);
  EXPECT_EQ(Look(seconds(1)), Verdict::kHung);
  Beat();
  EXPECT_EQ(Look(seconds(1)), Verdict::kBusy) << "it came back";
}

// Sequences that wait for their readers: no steps, but the loop looks after them.
TEST_F(WatchdogTest, ALoopThatBeatsIsNeverHung) {
  heartbeat_.pending = true;
  for (int i = 0; i < 100; ++i) {
    Beat();
    EXPECT_EQ(Look(seconds(60)), Verdict::kBusy);
  }
}

TEST_F(WatchdogTest, AStepMayTakeAsLongAsItsSizeExplains) {
  heartbeat_.pending = true;
  heartbeat_.computing_since = now_;
  heartbeat_.computing_tokens = 500;
  heartbeat_.tokens_per_second = 100;
  // 10 s of patience and 4 times 5 s.
  EXPECT_EQ(Look(seconds(29)), Verdict::kBusy);
  EXPECT_EQ(Look(seconds(2)), Verdict::kHung);
  heartbeat_.computing_tokens = 5;
  heartbeat_.computing_since = now_;
  EXPECT_EQ(Look(seconds(10)), Verdict::kBusy);
  EXPECT_EQ(Look(seconds(1)), Verdict::kHung) << "a small step has no such excuse";
}

TEST_F(WatchdogTest, ManyStepsInARowAreNotOneLongOne) {
  heartbeat_.pending = true;
  for (int i = 0; i < 10; ++i) {
    heartbeat_.computing_since = now_;
    Beat();
    EXPECT_EQ(Look(seconds(9)), Verdict::kBusy);
  }
}

TEST_F(WatchdogTest, StepsThatFailOneAfterTheOtherMeanALostDevice) {
  heartbeat_.failed_steps = 2;
  EXPECT_EQ(Look(seconds(1)), Verdict::kIdle);
  heartbeat_.failed_steps = 3;
  EXPECT_EQ(Look(seconds(1)), Verdict::kHung) << "also with nothing to do";
  heartbeat_.pending = true;
  Beat();
  EXPECT_EQ(Look(seconds(1)), Verdict::kHung);
  heartbeat_.failed_steps = 0;
  Beat();
  EXPECT_EQ(Look(seconds(1)), Verdict::kBusy) << "a step worked again";
}

TEST_F(WatchdogTest, ALostDeviceIsBelievedAtOnce) {
  heartbeat_.device_lost = true;
  heartbeat_.failed_steps = 1;
  EXPECT_EQ(Look(seconds(1)), Verdict::kHung);
}

}  // namespace
}  // namespace spotd::server
