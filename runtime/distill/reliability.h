// Whether a selector's own estimate of the mass it covers can be believed, layer by layer, and the
// temperature that makes it so.
//
// A layer's scores are multiplied by a scale before the softmax; the order of the blocks, and so
// the true mass that a number of them covers, does not change, but the estimate does: the scale to
// keep is the one whose estimates are nearest to the truth.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/distill.h"
#include "kvstore/kv_store.h"
#include "runtime/model/policy.h"
#include "runtime/model/selector.h"
#include "runtime/model/transformer.h"

namespace spotd::distill {

struct ReliabilityOptions {
  int32_t queries = 128;  // rows of each document, of its last quarter or its last so many
  int32_t sink_tokens = model::Policy{}.sink_tokens;
  int32_t recency_tokens = model::Policy{}.recency_tokens;
  std::vector<float> scales = {1.0f};  // to measure
};

// `documents` hold one length of tokens each, at most the transformer's chunk and context. The
// transformer need not have the selector loaded.
// Returns [layers][scales]: the mean over densities of 5, 10, 20 and 40% of |believed - true mass|.
absl::StatusOr<std::vector<std::vector<double>>> MeasureReliability(
    kernels::Backend* backend, model::Transformer* transformer, kvstore::KvStore* store,
    kernels::DistillKernels* kernels, const model::SelectorSource& selector,
    std::span<const std::span<const int32_t>> documents, const ReliabilityOptions& options);

}  // namespace spotd::distill
