// What `spot-bench prefill` and `spot-bench decode` measure, and the floors beside it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/policy.h"
#include "tools/common/loaded_model.h"

namespace spotd::bench {

struct BenchOptions {
  tools::ModelOptions model;
  std::string text;       // file whose text fills the context; empty: pseudo-random tokens
  int32_t context = 512;  // tokens in the cache when decoding starts, or of the prompt
  int32_t batch = 1;      // sequences decoded together
  // The cache already holds copies of a stretch (FillByCopies): every sequence gets blocks of its
  // own, as in a server, and nothing is prefilled. Else they are forks of one prompt.
  bool filled = false;
  int32_t steps = 64;  // decode steps measured
  model::Policy policy;
};

struct PrefillResult {
  int32_t tokens = 0;
  double seconds = 0;
  double flops = 0;            // multiply-adds counted twice, attention included
  double gemm_flops_rate = 0;  // FLOP/s of one large product on the same backend: the ceiling

  double TokensPerSecond() const { return tokens / seconds; }
  double FlopsRate() const { return flops / seconds; }
};

struct DecodeResult {
  int32_t context = 0;
  int32_t batch = 0;
  int32_t steps = 0;
  double seconds = 0;         // all steps
  double median_step = 0;     // seconds
  int64_t weight_bytes = 0;   // read by each step
  double kv_bytes = 0;        // read by a step, mean over steps
  double kv_bytes_dense = 0;  // what a dense step would have read
  double density = 1;         // blocks attended / visible
  double covered_mass = 1;    // as the policy estimates it
  double read_rate = 0;       // measured bytes/s of this machine and thread count, or of the device
  double host_seconds = 0;    // of a step, not spent waiting for the device; mean. 0 on a host

  double TokensPerSecond() const { return batch * steps / seconds; }
  // Seconds that the bytes of a step take at the measured read rate.
  double FloorSeconds() const { return (static_cast<double>(weight_bytes) + kv_bytes) / read_rate; }
};

// Prefills the prompt; the result's sequence is thrown away. Best of `repeats` runs.
absl::StatusOr<PrefillResult> MeasurePrefill(tools::LoadedModel& model, const BenchOptions& options,
                                             int repeats);

// Runs a few unmeasured steps and then `steps` measured ones, greedily. `waited` counts the seconds
// that the backend spent waiting for the device.
absl::StatusOr<DecodeResult> MeasureDecode(tools::LoadedModel& model, const BenchOptions& options,
                                           const double& waited);

}  // namespace spotd::bench
