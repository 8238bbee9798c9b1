#include "tools/spot_eval/block_masses.h"

#include "kernels/core/status.h"

namespace spotd::eval {

absl::Status Grow(kernels::Backend& backend, size_t bytes, kernels::Buffer* buffer) {
  if (bytes <= buffer->bytes()) return absl::OkStatus();
  SPOTD_ASSIGN_OR_RETURN(*buffer, backend.Allocate(bytes));
  return absl::OkStatus();
}

absl::Status ToBackend(kernels::Backend& backend, const void* host, size_t bytes,
                       kernels::Buffer* buffer) {
  SPOTD_RETURN_IF_ERROR(Grow(backend, bytes, buffer));
  backend.Upload(buffer->data(), host, bytes);
  return absl::OkStatus();
}

absl::Status BlockMasses::ReadPerKvHead(const kernels::OracleScoreArgs& args,
                                        std::span<const int32_t> instead_of,
                                        std::vector<float>* masses) {
  const auto rows = static_cast<size_t>(args.batch.num_seqs);
  kernels::OracleScoreArgs score = args;
  score.groups = args.layer.kv_heads;
  if (!instead_of.empty()) {
    std::vector<int32_t> tables = ToHost(*backend_, args.batch.block_tables,
                                         rows * static_cast<size_t>(args.batch.table_stride));
    SPOTD_RETURN_IF_ERROR(backend_->Synchronize());
    for (int32_t& block : tables) block = instead_of[static_cast<size_t>(block)];
    SPOTD_RETURN_IF_ERROR(
        ToBackend(*backend_, tables.data(), tables.size() * sizeof(int32_t), &tables_));
    score.batch.block_tables = tables_.as<int32_t>();
  }
  const size_t count =
      rows * static_cast<size_t>(score.groups) * static_cast<size_t>(args.lse_stride);
  SPOTD_RETURN_IF_ERROR(Grow(*backend_, count * sizeof(float), &scores_));
  score.block_lse = scores_.as<float>();
  backend_->OracleScore(score);
  *masses = ToHost(*backend_, scores_.as<float>(), count);
  return backend_->Synchronize();
}

}  // namespace spotd::eval
