#include "tools/spot_eval/block_masses.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/status.h"
#include "kernels/paged.h"

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

absl::Status BlockMasses::Score(const kernels::OracleScoreArgs& args, std::vector<float>* masses) {
  const size_t count =
      static_cast<size_t>(args.batch.num_seqs) * static_cast<size_t>(args.lse_stride);
  SPOTD_RETURN_IF_ERROR(Grow(*backend_, count * sizeof(float), &scores_));
  kernels::OracleScoreArgs score = args;
  score.block_lse = scores_.as<float>();
  backend_->OracleScore(score);
  *masses = ToHost(*backend_, scores_.as<float>(), count);
  return backend_->Synchronize();
}

kernels::OracleScoreArgs BlockMasses::HeadView(const kernels::OracleScoreArgs& args, int32_t head) {
  kernels::OracleScoreArgs view = args;
  view.layer.kv = static_cast<Bf16*>(args.layer.kv) + head % 2 * kernels::HeadElements(args.layer);
  view.layer.kv_heads = 1;
  view.layer.num_blocks = args.layer.num_blocks * args.layer.kv_heads;
  view.q_heads = args.q_heads / args.layer.kv_heads;
  view.batch.block_tables = tables_.as<int32_t>();
  view.q = q_.data();
  return view;
}

absl::Status BlockMasses::UploadHead(const kernels::OracleScoreArgs& args, int32_t head,
                                     std::span<const int32_t> tables, std::span<const char> q) {
  std::vector<int32_t> blocks(tables.begin(), tables.end());
  for (int32_t& block : blocks) block = block * args.layer.kv_heads + head / 2;
  SPOTD_RETURN_IF_ERROR(
      ToBackend(*backend_, blocks.data(), blocks.size() * sizeof(int32_t), &tables_));
  const auto rows = static_cast<size_t>(args.batch.num_seqs);
  const size_t row_bytes = q.size() / rows;
  const size_t head_bytes = row_bytes / static_cast<size_t>(args.layer.kv_heads);
  std::vector<char> part(rows * head_bytes);
  for (size_t row = 0; row < rows; ++row) {
    std::memcpy(&part[row * head_bytes],
                &q[row * row_bytes + static_cast<size_t>(head) * head_bytes], head_bytes);
  }
  return ToBackend(*backend_, part.data(), part.size(), &q_);
}

absl::Status BlockMasses::ReadPerKvHead(const kernels::OracleScoreArgs& args,
                                        std::span<const int32_t> instead_of,
                                        std::vector<float>* masses) {
  const auto rows = static_cast<size_t>(args.batch.num_seqs);
  const auto heads = static_cast<size_t>(args.layer.kv_heads);
  const auto stride = static_cast<size_t>(args.lse_stride);
  std::vector<int32_t> tables = ToHost(*backend_, args.batch.block_tables,
                                       rows * static_cast<size_t>(args.batch.table_stride));
  const std::vector<char> q =
      ToHost(*backend_, static_cast<const char*>(args.q),
             rows * static_cast<size_t>(args.q_heads) * static_cast<size_t>(args.layer.head_dim) *
                 backend_->activation_bytes());
  SPOTD_RETURN_IF_ERROR(backend_->Synchronize());
  for (int32_t& block : tables) {
    if (!instead_of.empty()) block = instead_of[static_cast<size_t>(block)];
  }
  masses->resize(rows * heads * stride);
  std::vector<float> of_head;
  for (int32_t head = 0; head < args.layer.kv_heads; ++head) {
    SPOTD_RETURN_IF_ERROR(UploadHead(args, head, tables, q));
    SPOTD_RETURN_IF_ERROR(Score(HeadView(args, head), &of_head));
    for (size_t row = 0; row < rows; ++row) {
      std::copy_n(&of_head[row * stride], stride,
                  &(*masses)[(row * heads + static_cast<size_t>(head)) * stride]);
    }
  }
  return absl::OkStatus();
}

}  // namespace spotd::eval
