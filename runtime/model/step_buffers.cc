#include "runtime/model/step_buffers.h"

#include <utility>

#include "kernels/core/status.h"

namespace spotd::model {

absl::StatusOr<StepBuffers> StepBuffers::Create(kernels::Backend* backend,
                                                const ModelConfig& config,
                                                const SelectorConfig* selector,
                                                const StepCapacity& capacity) {
  const size_t act = backend->activation_bytes();
  const auto rows = static_cast<size_t>(capacity.rows);
  const auto decode_rows = static_cast<size_t>(capacity.decode_rows);
  const auto hidden = static_cast<size_t>(config.hidden);
  const auto ffn = static_cast<size_t>(config.ffn_hidden);
  const auto q_dim = static_cast<size_t>(config.q_heads) * static_cast<size_t>(config.head_dim);
  const auto kv_dim = static_cast<size_t>(config.kv_heads) * static_cast<size_t>(config.head_dim);
  const size_t choices = decode_rows * static_cast<size_t>(config.kv_heads) *
                         static_cast<size_t>(capacity.table_stride);

  StepBuffers out;
  const auto allocate = [&](kernels::Buffer* buffer, size_t bytes) -> absl::Status {
    SPOTD_ASSIGN_OR_RETURN(*buffer, backend->Allocate(bytes));
    out.bytes += bytes;
    return absl::OkStatus();
  };
  SPOTD_RETURN_IF_ERROR(allocate(&out.hidden, rows * hidden * sizeof(float)));
  SPOTD_RETURN_IF_ERROR(allocate(&out.normed, rows * hidden * act));
  SPOTD_RETURN_IF_ERROR(allocate(&out.q, rows * q_dim * act));
  SPOTD_RETURN_IF_ERROR(allocate(&out.k, rows * kv_dim * act));
  SPOTD_RETURN_IF_ERROR(allocate(&out.v, rows * kv_dim * act));
  SPOTD_RETURN_IF_ERROR(allocate(&out.attended, rows * q_dim * act));
  SPOTD_RETURN_IF_ERROR(allocate(&out.gate, rows * ffn * act));
  SPOTD_RETURN_IF_ERROR(allocate(&out.up, rows * ffn * act));
  SPOTD_RETURN_IF_ERROR(
      allocate(&out.logits, decode_rows * static_cast<size_t>(config.vocab) * sizeof(float)));
  SPOTD_RETURN_IF_ERROR(allocate(&out.block_lse, choices * sizeof(float)));
  SPOTD_RETURN_IF_ERROR(allocate(&out.selected, choices * sizeof(int32_t)));
  if (selector != nullptr) {
    const auto heads = static_cast<size_t>(selector->heads);
    const auto dim = static_cast<size_t>(selector->dim);
    const auto groups = static_cast<size_t>(selector->groups);
    SPOTD_RETURN_IF_ERROR(allocate(&out.selector_q, rows * heads * dim * act));
    SPOTD_RETURN_IF_ERROR(allocate(&out.selector_k, rows * dim * act));
    SPOTD_RETURN_IF_ERROR(allocate(&out.selector_w, rows * groups * heads * act));
  }
  return out;
}

}  // namespace spotd::model
