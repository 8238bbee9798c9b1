// The load: requests that arrive by themselves (open loop, Poisson) or when the one before ends
// (closed loop; after a refusal a moment later), each a Generate without a session.
//
// Open loop is what a public service sees: arrivals do not wait for a slow server, and times count
// from when a request was due, not from when the generator got round to it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::bench {

// One kind of request and how often it comes.
struct RequestShape {
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;
  double weight = 1;
};

// "512/64@0.9,8000/32@0.1": prompt tokens, output tokens, weight. INVALID_ARGUMENT names the part.
absl::StatusOr<std::vector<RequestShape>> ParseMix(const std::string& text);

struct LoadOptions {
  std::string address;
  std::string tls_ca;  // PEM; empty: plaintext
  std::string token;   // empty: none
  std::vector<RequestShape> mix;
  double rate = 0;          // requests a second; 0: closed loop
  int32_t concurrency = 1;  // closed loop: requests at a time
  std::chrono::milliseconds duration{10'000};
  std::chrono::milliseconds grace{30'000};  // for what still runs at the end; then it is cancelled
  std::chrono::milliseconds deadline{0};    // of each request; 0: none
  int32_t connections = 8;
  uint64_t seed = 1;
  std::string policy;                              // "full", ...; empty: the server's
  std::chrono::milliseconds health_interval{100};  // between health checks; 0: none
};

// Times are seconds since the load began; -1 where it did not come to that.
struct RequestRecord {
  double due = 0;
  double first_token = -1;
  double end = 0;
  int32_t prompt_tokens = 0;
  int32_t tokens = 0;
  std::vector<float> gaps;  // seconds from token to token; tokens of one message share its gap
  std::string outcome;      // "OK", or code and reason: "RESOURCE_EXHAUSTED QUEUE_FULL"
};

struct LoadResult {
  std::vector<RequestRecord> requests;
  std::vector<double> health_seconds;  // of each health check that was answered SERVING
  int32_t health_failures = 0;
  double seconds = 0;  // until arrivals ended
  int32_t peak_streams = 0;
};

// UNAVAILABLE when the server does not answer at the start.
absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options);

}  // namespace spotd::bench
