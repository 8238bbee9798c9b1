// The weights of a model on a backend, loaded and shape-checked from a checkpoint.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/backend.h"
#include "runtime/model/model_config.h"
#include "runtime/model/model_source.h"
#include "runtime/model/selector.h"

namespace spotd::model {

using WeightPtr = std::unique_ptr<kernels::Weight>;

// Shapes: H hidden, F feed-forward, D head dimension. Vectors are float in backend memory; where
// the model has none, the buffer is empty and its pointer null.
struct LayerWeights {
  kernels::Buffer attn_norm;  // [H]
  WeightPtr q;                // [q_heads * D, H]
  WeightPtr k;                // [kv_heads * D, H]
  WeightPtr v;                // [kv_heads * D, H]
  kernels::Buffer q_bias;     // [q_heads * D]
  kernels::Buffer k_bias;     // [kv_heads * D]
  kernels::Buffer v_bias;     // [kv_heads * D]
  kernels::Buffer q_norm;     // [D]
  kernels::Buffer k_norm;     // [D]
  WeightPtr o;                // [H, q_heads * D]
  kernels::Buffer o_bias;     // [H]
  kernels::Buffer ffn_norm;   // [H]
  WeightPtr gate;             // [F, H]
  WeightPtr up;               // [F, H]
  WeightPtr down;             // [H, F]

  // The selector, all null without one. Its score scale is folded into selector_w.
  WeightPtr selector_q;             // [H_s * d_s, H]
  WeightPtr selector_k;             // [d_s, H]
  WeightPtr selector_w;             // [H_s, H]
  kernels::Buffer selector_k_norm;  // [d_s]
};

struct ModelWeights {
  WeightPtr embedding;         // [vocab, H]
  WeightPtr head;              // [vocab, H]; null when tied to the embedding
  kernels::Buffer final_norm;  // [H]
  std::vector<LayerWeights> layers;

  kernels::Buffer inv_freq;           // [rotary_dim / 2]
  kernels::Buffer selector_inv_freq;  // [d_s / 2]
  kernels::Rope rope;                 // points into inv_freq
  kernels::Rope selector_rope;        // points into selector_inv_freq

  // Every matrix of the transformer is fp32 in the checkpoint: whoever serves such a file wants
  // fp32 arithmetic, not the fastest.
  bool full_precision = true;

  size_t total_bytes = 0;   // held in backend memory
  size_t decode_bytes = 0;  // of these, read by every decode step

  const kernels::Weight* logits_weight() const { return head ? head.get() : embedding.get(); }
};

// `selector` may be null. Errors name file, tensor and reason.
absl::StatusOr<ModelWeights> LoadWeights(kernels::Backend* backend, const ModelSource& source,
                                         const SelectorSource* selector);

}  // namespace spotd::model
