// The decode step: gather, one upload, one recorded step over all layers, one download, results in
// the caller's order.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvstore/kv_layout.h"
#include "runtime/model/decode_plan.h"
#include "runtime/model/forward_pass.h"
#include "runtime/model/sparsity_meter.h"
#include "runtime/model/step_arrays.h"
#include "runtime/model/step_buffers.h"
#include "runtime/model/transformer.h"

namespace spotd::model {

// Borrows everything it is made from; see transformer.h for the contract of the public methods.
class Decoder {
 public:
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(kernels::Backend* backend,
                                                         const ModelConfig* config,
                                                         const SelectorConfig* selector,
                                                         const Limits& limits, ForwardPass* forward,
                                                         const StepBuffers* buffers);
  // The layout of the store that `forward` is attached to. Called before Decode.
  void AttachStore(const kvstore::KvLayout& layout);

  absl::Status Decode(std::span<const DecodeRow> rows, std::span<DecodeResult> results,
                      std::span<float> logits);
  int32_t StepRow(int32_t i) const { return plan_.caller_row(i); }

  // Backend memory held, growth included.
  size_t bytes() const;

 private:
  Decoder(kernels::Backend* backend, const ModelConfig* config, const SelectorConfig* selector,
          const Limits& limits, ForwardPass* forward, const StepBuffers* buffers);

  absl::Status Check(std::span<const DecodeRow> rows) const;
  absl::Status CheckRow(const DecodeRow& row) const;
  void Plan(std::span<const DecodeRow> rows);
  absl::Status GatherInputs(std::span<const DecodeRow> rows);
  absl::Status GrowTrace();
  void Issue(bool sample);
  void IssueSample(int32_t rows, const StepInputs& inputs, const StepResults& results);
  void ScatterResults(std::span<const DecodeRow> rows, std::span<DecodeResult> results);
  void DownloadTrace();
  void ReadTrace(const ChooserRange& range, int32_t row, SelectionTrace* trace);
  uint64_t Key(bool sample) const;
  StepResults ResultsAt(void* base, int32_t rows) const {
    return StepResults::At(base, rows, config_->layers, config_->kv_heads);
  }
  size_t ResultsBytes(int32_t rows) const {
    return StepResults::Bytes(rows, config_->layers, config_->kv_heads);
  }
  StepShape shape() const {
    return {plan_.rows(), plan_.rows(), plan_.table_stride(), config_->layers};
  }
  // The rules of step row `i` in every layer.
  void WriteRules(const DecodeRow& row, int32_t i, kernels::BudgetRule* rules) const;

  kernels::Backend* backend_;
  const ModelConfig* config_;
  const SelectorConfig* selector_;  // nullable
  Limits limits_;
  ForwardPass* forward_;
  const StepBuffers* buffers_;
  kvstore::KvLayout layout_;
  SparsityMeter meter_;
  DecodePlan plan_;
  std::vector<Chooser> choosers_;  // [rows], caller's order
  std::vector<int32_t> kv_lens_;   // [rows], caller's order
  Staging inputs_;
  Staging results_;
  AdjustmentList adjustments_;
  kernels::Buffer trace_;  // [layers, rows, kv_heads, table_stride] block lists, grown when traces
                           // are asked for
  std::vector<int32_t> trace_host_;
  std::vector<uint8_t> trace_seen_;  // [blocks], scratch of a union
  uint64_t trace_generation_ = 0;
};

}  // namespace spotd::model
