// What the engine counts: plain atomics and fixed-bucket histograms that `server` exports to
// Prometheus (runtime counts, server exports). Names and buckets follow SERVING 2.4; intervals come
// from one monotonic clock.
//
// Thread-safety: every member may be read and written from any thread. Reads of several counters
// are not one snapshot.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/policy.h"

namespace spotd::engine {

// Counts observations into buckets given by ascending upper bounds; the last, implicit bucket is
// +Inf.
class Histogram {
 public:
  explicit Histogram(std::span<const double> upper_bounds);
  void Observe(double value);
  std::span<const double> upper_bounds() const { return upper_bounds_; }
  // Non-cumulative count of bucket i, i in [0, upper_bounds().size()].
  uint64_t bucket(size_t i) const { return buckets_[i].load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  std::vector<double> upper_bounds_;
  std::vector<std::atomic<uint64_t>> buckets_;
  std::atomic<double> sum_{0};
};

inline constexpr int kNumPolicies = 6;  // model::PolicyKind

// Labelled by policy, indexed by PolicyKind.
struct PolicyMetrics {
  PolicyMetrics();
  std::atomic<uint64_t> kv_blocks_attended{0};
  std::atomic<uint64_t> kv_blocks_visible{0};
  std::atomic<uint64_t> kv_bytes_read{0};
  std::atomic<uint64_t> kv_bytes_dense_equivalent{0};
  std::atomic<uint64_t> dense_steps_short_context{0};
  std::atomic<uint64_t> dense_steps_requested{0};
  std::atomic<uint64_t> dense_steps_audit{0};  // of sessions that fell under the floor
  Histogram request_attended_fraction;
  Histogram request_covered_mass;
  Histogram request_selected_tokens;  // mean per step of a request
  Histogram audit_recalled_mass;      // of an audited step's layer
  Histogram audit_output_error;
};

struct Metrics {
  Metrics();
  std::atomic<int64_t> requests_running{0};
  std::atomic<int64_t> requests_waiting{0};
  std::atomic<int64_t> sessions{0};
  std::atomic<int64_t> session_tokens{0};
  std::atomic<int64_t> kv_blocks_total{0};
  std::atomic<int64_t> kv_blocks_used{0};
  std::atomic<int64_t> kv_blocks_shared{0};
  std::atomic<int64_t> kv_blocks_kept{0};     // no session's, kept for their content
  std::atomic<uint64_t> kv_kept_given_up{0};  // so far, given up (KvStats)
  std::atomic<int64_t> kv_bytes_per_block{0};
  std::atomic<uint64_t> kv_copies_on_write{0};
  std::atomic<uint64_t> prompt_tokens_computed{0};
  std::atomic<uint64_t> prompt_tokens_session{0};
  std::atomic<uint64_t> prompt_tokens_prefix{0};    // found by content
  std::atomic<uint64_t> prompt_tokens_restored{0};  // computed again: reclaimed since
  std::atomic<uint64_t> prefix_lookup_tokens{0};    // that could have been adopted
  std::atomic<uint64_t> generation_tokens{0};
  std::atomic<uint64_t> engine_steps{0};
  std::atomic<double> engine_last_step_timestamp{0};  // Unix seconds
  // The heartbeat: rounds of the engine's loop, and since when (steady clock, in nanoseconds; 0 =
  // not) the model has been computing one step, over how many tokens.
  std::atomic<uint64_t> engine_beats{0};
  std::atomic<int64_t> engine_computing_since{0};
  std::atomic<int64_t> engine_computing_tokens{0};
  std::atomic<int32_t> engine_failed_steps{0};  // in a row, up to the newest step
  std::atomic<bool> device_lost{false};         // for good: no step can work any more
  std::atomic<uint64_t> kv_reclaims{0};         // idle sessions whose KV was dropped to make room
  std::atomic<uint64_t> kv_reclaimed_tokens{
      0};  // tokens of KV dropped so; recomputed when the session is next used
  std::atomic<int64_t> kv_blocks_offered{0};  // whole blocks that others may adopt
  std::atomic<uint64_t> preemptions{0};       // running requests that had to give up their KV
  std::atomic<uint64_t> preempted_tokens{0};  // computed again for these
  std::atomic<int64_t> waiting_tokens{0};     // of prompts not yet begun
  std::atomic<int64_t> prefill_backlog{0};    // tokens that running requests have yet to prefill
  std::atomic<double> prefill_tokens_per_second{0};  // measured over the latest chunks; 0 = unknown
  std::atomic<uint64_t> sessions_expired{0};
  std::atomic<uint64_t> audit_fallbacks{0};  // sessions that went dense
  std::atomic<uint64_t> session_forks{0};
  std::atomic<uint64_t> session_rewinds{0};
  Histogram time_to_first_token;
  Histogram inter_token_latency;
  Histogram time_per_output_token;  // mean of a request
  Histogram tokenization_time;      // of a request's input, template rendering included
  Histogram e2e_request_latency;
  Histogram request_queue_time;
  Histogram request_prefill_time;
  Histogram request_decode_time;
  Histogram request_prompt_tokens;
  Histogram request_generation_tokens;
  std::array<PolicyMetrics, kNumPolicies> by_policy;
};

}  // namespace spotd::engine
