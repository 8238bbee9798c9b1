#include "runtime/engine/metrics.h"

#include <algorithm>

namespace spotd::engine {
namespace {

// vLLM's bounds are a subset of each latency list, so that queries across engines line up
// (SERVING 2.4).
constexpr double kTimeToFirstToken[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                        1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
constexpr double kInterTokenLatency[] = {.0005, .001, .002, .003, .005, .0075, .01, .025, .05,
                                         .075,  .1,   .15,  .2,   .3,   .4,    .5,  .75,  1,
                                         2.5,   5,    7.5,  10,   20,   40,    80};
constexpr double kRequestLatency[] = {.01, .025, .05, .1,  .2,  .3,  .5,   .8,  1,
                                      1.5, 2,    2.5, 5,   10,  15,  20,   30,  40,
                                      50,  60,   120, 240, 480, 960, 1920, 7680};
constexpr double kTokenizationTime[] = {.0001, .00025, .0005, .001, .0025, .005, .01,
                                        .025,  .05,    .1,    .25,  .5,    1,    2.5};
constexpr double kTokens[] = {256,   512,   1024,   2048,   4096,   8192,   16384,
                              32768, 65536, 131072, 262144, 524288, 1048576};
constexpr double kFraction[] = {.005, .01, .02, .05, .1, .15, .2, .3, .5, .75, 1};
constexpr double kMass[] = {.5, .6, .7, .8, .85, .9, .925, .95, .97, .98, .99, .995, 1};
constexpr double kError[] = {.001, .0025, .005, .01, .025, .05, .1, .15, .2, .3, .5, .75, 1};
constexpr double kSelectedTokens[] = {64,   128,  256,   512,   1024,  2048,
                                      4096, 8192, 16384, 32768, 65536, 131072};

}  // namespace

Histogram::Histogram(std::span<const double> upper_bounds)
    : upper_bounds_(upper_bounds.begin(), upper_bounds.end()), buckets_(upper_bounds.size() + 1) {}

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(upper_bounds_.begin(), upper_bounds_.end(), value);
  buckets_[bucket - upper_bounds_.begin()].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

PolicyMetrics::PolicyMetrics()
    : request_attended_fraction(kFraction),
      request_covered_mass(kMass),
      request_selected_tokens(kSelectedTokens),
      audit_recalled_mass(kMass),
      audit_output_error(kError) {}

Metrics::Metrics()
    : time_to_first_token(kTimeToFirstToken),
      inter_token_latency(kInterTokenLatency),
      time_per_output_token(kInterTokenLatency),
      tokenization_time(kTokenizationTime),
      e2e_request_latency(kRequestLatency),
      request_queue_time(kRequestLatency),
      request_prefill_time(kRequestLatency),
      request_decode_time(kRequestLatency),
      request_prompt_tokens(kTokens),
      request_generation_tokens(kTokens) {}

}  // namespace spotd::engine
