// The activations of a step, in backend memory, allocated once and sized by Limits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/model/model_config.h"
#include "runtime/model/selector.h"

namespace spotd::model {

// What the buffers must have room for.
struct StepCapacity {
  int32_t rows = 0;          // of any step: the largest prefill chunk or decode batch
  int32_t decode_rows = 0;   // of a decode step
  int32_t table_stride = 0;  // blocks of the longest context, bucketed
};

struct StepBuffers {
  // `selector` may be null. RESOURCE_EXHAUSTED when the backend has no room.
  static absl::StatusOr<StepBuffers> Create(kernels::Backend* backend, const ModelConfig& config,
                                            const SelectorConfig* selector,
                                            const StepCapacity& capacity);

  kernels::Buffer hidden;      // [rows, H] float: the residual stream
  kernels::Buffer normed;      // [rows, H] Act
  kernels::Buffer q;           // [rows, q_heads * D] Act
  kernels::Buffer k;           // [rows, kv_heads * D] Act
  kernels::Buffer v;           // [rows, kv_heads * D] Act
  kernels::Buffer attended;    // [rows, q_heads * D] Act
  kernels::Buffer gate;        // [rows, F] Act
  kernels::Buffer up;          // [rows, F] Act
  kernels::Buffer selector_q;  // [rows, H_s * d_s] Act; empty without a selector
  kernels::Buffer selector_k;  // [rows, d_s] Act; empty without a selector
  kernels::Buffer selector_w;  // [rows, groups * H_s] Act; empty without a selector
  kernels::Buffer logits;      // [decode_rows, vocab] float
  kernels::Buffer block_lse;   // [decode_rows, kv_heads, table_stride] float
  kernels::Buffer selected;    // [decode_rows, kv_heads, table_stride] int32

  size_t bytes = 0;  // of all of the above
};

}  // namespace spotd::model
