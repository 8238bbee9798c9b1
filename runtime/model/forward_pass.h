// The forward pass of one step, layer by layer: the file to read beside DESIGN 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/args.h"
#include "kernels/backend.h"
#include "kvstore/kv_store.h"
#include "runtime/model/decode_plan.h"
#include "runtime/model/layer_observer.h"
#include "runtime/model/model_config.h"
#include "runtime/model/selector.h"
#include "runtime/model/step_buffers.h"
#include "runtime/model/weights.h"

namespace spotd::model {

// One step's inputs, in backend memory.
struct ForwardStep {
  kernels::SequenceBatch batch;
  const int32_t* tokens = nullptr;     // [rows]
  const int32_t* positions = nullptr;  // [rows]
  // How many of the last rows anybody will read the residual stream of: all of them, or in a
  // prefill 0 or 1. Past the cache of the last layer, the others are not computed.
  int32_t output_rows = 0;

  LayerObserver* observer = nullptr;  // nullable; prefill only

  // Decode only; without a plan the step is a prefill.
  const DecodePlan* plan = nullptr;
  const kernels::BudgetRule* rules = nullptr;  // [layers, rows]
  int32_t* selected = nullptr;                 // [rows, kv_heads, table_stride] of layer 0
  size_t selected_layer_stride =
      0;  // elements from one layer's lists to the next; 0: layers share the space
  int32_t* counts = nullptr;      // [layers, rows, kv_heads]
  float* covered_mass = nullptr;  // [layers, rows, kv_heads]
};

// Borrows everything it is made from. Issues operations only: allocates nothing, waits for nothing.
class ForwardPass {
 public:
  // `selector` may be null.
  ForwardPass(kernels::Backend* backend, const ModelConfig* config, const ModelWeights* weights,
              const SelectorConfig* selector, const StepBuffers* buffers);

  void AttachStore(const kvstore::KvStore& store);
  bool attached() const { return !caches_.empty(); }
  // Whether the attached store keeps selector keys for this model's selector.
  bool keeps_selector_keys() const { return keeps_selector_keys_; }

  // Leaves the residual stream of the step's output rows in buffers.hidden.
  void Run(const ForwardStep& step);
  // Final norm and language-model head of rows [first, first + rows) of the residual stream, into
  // buffers.logits.
  void Logits(int32_t first, int32_t rows);

 private:
  void RunLayer(const ForwardStep& step, int32_t index);
  void Project(const ForwardStep& step, const LayerWeights& layer);
  void Append(const ForwardStep& step, const LayerWeights& layer, const kernels::KvLayer& cache);
  void Attend(const ForwardStep& step, int32_t index);
  void AttendLastRow(const ForwardStep& step, const kernels::KvLayer& cache);
  // The remaining functions work on rows [first, first + rows) of the residual stream, and on [0,
  // rows) of the other buffers.
  void FeedForward(int32_t first, int32_t rows, const LayerWeights& layer);
  void RmsNorm(int32_t first, int32_t rows, const kernels::Buffer& weight);
  // hidden += x W^T (+ bias)
  void AddToResidual(const kernels::Buffer& x, int32_t first, int32_t rows,
                     const kernels::Weight& weight, const kernels::Buffer& bias);
  float* Residual(int32_t first) const;

  kernels::Backend* backend_;
  const ModelConfig* config_;
  const ModelWeights* weights_;
  const SelectorConfig* selector_;
  const StepBuffers* buffers_;
  float scale_;
  std::vector<kernels::KvLayer> caches_;
  bool keeps_selector_keys_ = false;
};

}  // namespace spotd::model
