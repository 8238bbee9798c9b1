// The small arrays of one step that travel between host and device: inputs gathered in one staging
// block and uploaded at once, results downloaded at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/backend.h"

namespace spotd::model {

// Sizes of one step. rows == seqs in a decode step.
struct StepShape {
  int32_t rows = 0;
  int32_t seqs = 0;
  int32_t table_stride = 0;
  int32_t layers = 1;  // that have budget rules of their own
};

// Pointers into a staging block, on the host or on the device: the same shape puts the same array
// at the same offset.
struct StepInputs {
  int32_t* tokens;                    // [rows]
  int32_t* positions;                 // [rows]
  int32_t* kv_len;                    // [seqs]
  int32_t* row_start;                 // [seqs + 1]
  int32_t* block_tables;              // [seqs, table_stride]
  kernels::BudgetRule* rules;         // [layers, seqs]
  kernels::SamplingParams* sampling;  // [seqs]
  int32_t* adjustment_start;          // [seqs + 1]

  static StepInputs At(void* base, const StepShape& shape);
  static size_t Bytes(const StepShape& shape);
};

// Results of a decode step of `rows` rows.
struct StepResults {
  int32_t* tokens;      // [rows]
  float* logprobs;      // [rows]
  int32_t* counts;      // [layers, rows, kv_heads]; see DecodePlan::ChoiceOffset
  float* covered_mass;  // as counts

  static StepResults At(void* base, int32_t rows, int32_t layers, int32_t kv_heads);
  static size_t Bytes(int32_t rows, int32_t layers, int32_t kv_heads);
};

// A block of memory on both sides, of which the first bytes are copied when asked.
class Staging {
 public:
  static absl::StatusOr<Staging> Create(kernels::Backend* backend, size_t bytes);
  void* host() { return host_.data(); }
  void* device() const { return device_.data(); }
  size_t bytes() const { return device_.bytes(); }
  void Upload(kernels::Backend* backend, size_t bytes);
  void Download(kernels::Backend* backend, size_t bytes);

 private:
  std::vector<uint64_t> host_;  // 8-byte elements, for alignment
  kernels::Buffer device_;
};

// The token adjustments of a step's rows, back to back. Grows as needed; each growth moves the
// device array, which generation() tells.
class AdjustmentList {
 public:
  void Clear() { host_.clear(); }
  void Append(const kernels::TokenAdjustment* first, size_t count);
  int32_t size() const { return static_cast<int32_t>(host_.size()); }
  // Brings the device copy up to date.
  absl::Status Upload(kernels::Backend* backend);
  // Null when there are none.
  const kernels::TokenAdjustment* device() const;
  uint64_t generation() const { return generation_; }

 private:
  std::vector<kernels::TokenAdjustment> host_;
  kernels::Buffer device_;
  uint64_t generation_ = 0;
};

}  // namespace spotd::model
