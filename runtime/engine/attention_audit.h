// Watches single decode steps: of one layer, what share of the true attention mass the blocks held
// that were read, and how far the output is from the dense one.
//
// Sits between the model and the backend that computes. Unwatched steps pass through untouched; a
// watched one runs operation by operation, and its layer is attended to a second time, densely.
// What the model computes does not change. The mass is exact: a head's is exp(lse of the blocks
// read - lse of all blocks).
//
// Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "kernels/forwarding_backend.h"

namespace spotd::engine {

class AttentionAudit : public kernels::ForwardingBackend {
 public:
  explicit AttentionAudit(std::unique_ptr<kernels::Backend> backend)
      : ForwardingBackend(std::move(backend)) {}

  // What was seen of one row that read sparsely.
  struct Finding {
    double recalled_mass = 1;  // mean over query heads, in [0, 1]
    double output_error = 0;   // |sparse - dense| / |dense|
  };

  // Watches the layer whose cache is `layer` in the next step, of at most `rows` rows.
  // RESOURCE_EXHAUSTED, and the step goes unwatched, when there is no memory for that.
  absl::Status Watch(const kernels::KvLayer& layer, int32_t rows, int32_t q_heads);
  // By row of the step, in its order; nothing for rows that read everything. Ends the watch.
  std::vector<std::optional<Finding>> TakeFindings();

  void Attend(const kernels::AttendArgs& args) override;
  void AttendByScore(const kernels::SelectorScoreArgs& score, const kernels::SelectArgs& select,
                     const kernels::AttendArgs& attend) override;
  void RunStep(uint64_t key, const std::function<void()>& issue) override;

 private:
  std::vector<float> ReadActivations(const void* from, size_t count);
  void AttendTwice(const kernels::AttendArgs& args);

  const void* watched_ = nullptr;  // the layer's KV; null: none
  std::vector<std::optional<Finding>> findings_;
  kernels::Buffer dense_out_;   // [rows, q_heads, head_dim] Act
  kernels::Buffer sparse_lse_;  // [rows, q_heads]
  kernels::Buffer dense_lse_;   // [rows, q_heads]
};

}  // namespace spotd::engine
