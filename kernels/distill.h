// What training a selector needs beyond the inference operations: the loss and its gradient for one
// layer, and AdamW.
//
// The query heads form groups: one of all heads, or one for each KV head. A group's teacher is the
// frozen model's own attention: p_t(r, j) = mean over the group's query heads h of p_h(r, j) =
// softmax_j(scale q_h . k). A head's output suffers by the square of the mass it misses, so within
// the residual (below) heads count by M_h^power, M_h being their residual mass, with the whole
// scaled so that the mean's residual mass stays what it is. A group's student is the selector of
// args.h: p_s = softmax of sum_h w_g,h relu(q_s,h . k_s) / sqrt(d_s). The loss of a query is the
// mean over groups of
//
//     full_weight * KL(p_t || p_s)  +  residual_weight * KL(p_t^R || p_s^R)
//
// where R restricts and renormalises both to the residual tokens: outside the first sink_tokens and
// the last recency_tokens, which decoding always reads. A group whose heads attend near has little
// to choose: in the mean of the residual terms groups count by M_g^group_power, M_g being the
// residual mass of their heads, summed. Only `num_queries` sampled rows of a
// sequence enter the loss, each against all its keys; the largest intermediates are [heads,
// num_queries, rows] and [groups, num_queries, rows], never [rows, rows].
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/distill_args.h"

namespace spotd::kernels {

// Pointers are memory of the backend the teacher runs on. One thread at a time. Like the backend's
// own operations these may return before they complete; TakeStats and SumOfSquares wait.
class DistillKernels {
 public:
  virtual ~DistillKernels() = default;
  // For a cache of `block_tokens` a block.
  virtual DistillLimits limits(int32_t /*block_tokens*/) const { return {}; }
  // Adds the gradients of one layer of some sequences, and their figures to those TakeStats
  // returns.
  virtual void Accumulate(const DistillArgs& args) = 0;
  // The sums since the last call, which start again at zero. A device fault is reported here.
  virtual absl::StatusOr<DistillStats> TakeStats() = 0;
  virtual void Zero(float* values, int64_t count) = 0;
  virtual double SumOfSquares(const float* values, int64_t count) = 0;
  virtual void AdamW(const AdamWArgs& args) = 0;
};

class Backend;

// The kernels that belong to `backend`, which must outlive them. `threads` as in BackendOptions.
// UNIMPLEMENTED where the backend has none.
absl::StatusOr<std::unique_ptr<DistillKernels>> CreateDistillKernels(Backend* backend, int threads);

// INVALID_ARGUMENT where sequences of `rows` tokens of a model with `q_heads` are beyond `limits`;
// `option` is what sets the rows.
absl::Status CheckDistillLimits(const DistillLimits& limits, int32_t q_heads, int32_t rows,
                                const char* option);

}  // namespace spotd::kernels
