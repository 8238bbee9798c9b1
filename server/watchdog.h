// Tells an engine that hangs from one that is busy or has nothing to do.
//
// The engine's loop beats once a round and says when the model has begun to compute a step, over
// how many tokens. Busy is: it beats, or the step that runs has not lasted longer than its size
// explains. Sequences that wait for slow readers keep the loop beating.
//
// Pure but for its memory of the last beat; one thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace spotd::server {

// What the engine's counters said at one moment.
struct Heartbeat {
  uint64_t beats = 0;
  bool pending = false;  // some request runs or waits
  // Since when the model computes a step, on the steady clock; zero: it does not.
  std::chrono::steady_clock::time_point computing_since;
  int64_t computing_tokens = 0;
  int32_t failed_steps = 0;      // in a row
  bool device_lost = false;      // for good
  double tokens_per_second = 0;  // of prefill, as measured; 0 = unknown
};

class Watchdog {
 public:
  enum class Verdict : uint8_t { kIdle, kBusy, kHung };

  // A loop that does not beat for `patience` hangs, and so does a step that takes that much longer
  // than `kSlack` times what its tokens took before.
  Watchdog(std::chrono::milliseconds patience, std::chrono::steady_clock::time_point now)
      : patience_(patience), last_change_(now) {}

  static constexpr double kSlack = 4;
  // A fault that stays makes every step after it fail too: that many in a row count as hanging,
  // whether or not anything is pending. A lost device counts at once.
  static constexpr int32_t kMaxFailedSteps = 3;
  Verdict Look(const Heartbeat& heartbeat, std::chrono::steady_clock::time_point now);

 private:
  std::chrono::milliseconds patience_;
  uint64_t last_beats_ = 0;
  std::chrono::steady_clock::time_point last_change_;
};

}  // namespace spotd::server
