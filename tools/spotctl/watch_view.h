// What `spotctl watch` shows: rates and levels between two looks at the metrics.
#pragma once

#include <deque>
#include <string>

#include "tools/spotctl/metrics_page.h"

namespace spotd::spotctl {

// Figures of the time between two pages.
struct WatchFigures {
  WatchFigures(const MetricsPage& before, const MetricsPage& after, double elapsed_seconds);

  std::string ToJson() const;  // one object on one line

  std::string version, model, policy, backend, state;
  double seconds = 0;
  double running = 0, waiting = 0, sessions = 0, calls = 0;
  double refused_per_second = 0, requests_per_second = 0;
  double kv_usage = 0, kv_blocks = 0;
  double prefill_rate = 0, decode_rate = 0;         // tokens a second
  double first_token_p50 = 0, first_token_p99 = 0;  // seconds
  double inter_token_p50 = 0, inter_token_p99 = 0;  // seconds
  double density = 0;                               // of the decode steps; 0 without any
  double kv_read_rate = 0, kv_dense_rate = 0;       // bytes a second
  double resident_bytes = 0;
};

// The rates of the last looks, oldest first, for the little graphs.
struct WatchHistory {
  void Add(const WatchFigures& figures);

  std::deque<double> prefill, decode, density;
};

// The view, several lines. `color` adds terminal colours.
std::string RenderWatch(const WatchFigures& figures, const WatchHistory& history, bool color);

// Values as block characters, the largest one full.
std::string Sparkline(const std::deque<double>& values);

}  // namespace spotd::spotctl
