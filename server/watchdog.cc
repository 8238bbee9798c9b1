#include "server/watchdog.h"

namespace spotd::server {

Watchdog::Verdict Watchdog::Look(const Heartbeat& heartbeat,
                                 std::chrono::steady_clock::time_point now) {
  using Seconds = std::chrono::duration<double>;
  const bool beat = heartbeat.beats != last_beats_;
  // With nothing to do the loop sleeps, and need not beat.
  if (beat || !heartbeat.pending) last_change_ = now;
  last_beats_ = heartbeat.beats;
  if (heartbeat.device_lost || heartbeat.failed_steps >= kMaxFailedSteps) return Verdict::kHung;
  if (!heartbeat.pending) return Verdict::kIdle;
  if (beat) return Verdict::kBusy;
  Seconds limit = patience_;
  Seconds silent = now - last_change_;
  if (heartbeat.computing_since != std::chrono::steady_clock::time_point()) {
    silent = now - heartbeat.computing_since;
    if (heartbeat.tokens_per_second > 0) {
      limit += Seconds(kSlack * static_cast<double>(heartbeat.computing_tokens) /
                       heartbeat.tokens_per_second);
    }
  }
  return silent > limit ? Verdict::kHung : Verdict::kBusy;
}

}  // namespace spotd::server
