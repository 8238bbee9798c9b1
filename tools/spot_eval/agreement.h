// How closely sparse decoding follows dense decoding: next-token distributions on held-out text,
// teacher-forced.
//
// Protocol (the selector's own): a document's first context - tail tokens are prefilled densely;
// the last `tail` tokens are then decoded one by one under each policy, every policy seeing the
// same tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/common/loaded_model.h"
#include "tools/spot_eval/policy_spec.h"

namespace spotd::eval {

// One policy on one document, means over the tail.
struct Agreement {
  double nll = 0;           // negative log likelihood of the text, nats per token
  double dense_nll = 0;     // of the dense model on the same tokens
  double kl = 0;            // KL(dense || policy), nats
  double top1 = 0;          // share of positions with the same most likely token
  double density = 1;       // blocks attended / visible
  double covered_mass = 1;  // as the policy estimates it
};

// result[p] belongs to policies[p]. `document` has at least `context` tokens.
absl::StatusOr<std::vector<Agreement>> MeasureAgreement(tools::LoadedModel& model,
                                                        std::span<const int32_t> document,
                                                        int32_t context, int32_t tail,
                                                        std::span<const PolicySpec> policies);

// Mean and half-width of the 95% interval (normal approximation) of a figure over documents.
struct Interval {
  double mean = 0;
  double half_width = 0;
};
Interval MeanInterval(const std::vector<double>& values);

}  // namespace spotd::eval
