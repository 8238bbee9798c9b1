#include "runtime/engine/attention_audit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace spotd::engine {
namespace {

absl::Status Grow(kernels::Backend* backend, size_t bytes, kernels::Buffer* buffer) {
  if (buffer->bytes() >= bytes) return absl::OkStatus();
  SPOTD_ASSIGN_OR_RETURN(*buffer, backend->Allocate(bytes));
  return absl::OkStatus();
}

double RelativeError(const float* values, const float* exact, size_t count) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < count; ++i) {
    const double distance = static_cast<double>(values[i]) - exact[i];
    difference += distance * distance;
    size += static_cast<double>(exact[i]) * exact[i];
  }
  return size > 0 ? std::sqrt(difference / size) : 0;
}

double MeanMass(const float* sparse_lse, const float* dense_lse, size_t heads) {
  double mass = 0;
  for (size_t head = 0; head < heads; ++head) {
    mass += std::exp(static_cast<double>(sparse_lse[head]) - dense_lse[head]);
  }
  return std::clamp(mass / static_cast<double>(heads), 0.0, 1.0);
}

}  // namespace

absl::Status AttentionAudit::Watch(const kernels::KvLayer& layer, int32_t rows, int32_t q_heads) {
  const auto heads = static_cast<size_t>(rows) * static_cast<size_t>(q_heads);
  const size_t elements = heads * static_cast<size_t>(layer.head_dim);
  SPOTD_RETURN_IF_ERROR(Grow(&inner(), elements * activation_bytes(), &dense_out_));
  SPOTD_RETURN_IF_ERROR(Grow(&inner(), heads * sizeof(float), &sparse_lse_));
  SPOTD_RETURN_IF_ERROR(Grow(&inner(), heads * sizeof(float), &dense_lse_));
  watched_ = layer.kv;
  findings_.clear();
  return absl::OkStatus();
}

std::vector<std::optional<AttentionAudit::Finding>> AttentionAudit::TakeFindings() {
  watched_ = nullptr;
  return std::exchange(findings_, {});
}

void AttentionAudit::RunStep(uint64_t key, const std::function<void()>& issue) {
  if (watched_ == nullptr) return inner().RunStep(key, issue);
  issue();
}

void AttentionAudit::Attend(const kernels::AttendArgs& args) {
  if (watched_ == nullptr || args.layer.kv != watched_) return inner().Attend(args);
  if (args.selected != nullptr) return AttendTwice(args);
  inner().Attend(args);
  findings_.resize(findings_.size() + static_cast<size_t>(args.batch.num_rows));
}

void AttentionAudit::AttendByScore(const kernels::SelectorScoreArgs& score,
                                   const kernels::SelectArgs& select,
                                   const kernels::AttendArgs& attend) {
  if (watched_ == nullptr) return inner().AttendByScore(score, select, attend);
  ForwardingBackend::AttendByScore(score, select, attend);
}

void AttentionAudit::AttendTwice(const kernels::AttendArgs& args) {
  kernels::AttendArgs sparse = args;
  sparse.lse = sparse_lse_.as<float>();
  inner().Attend(sparse);
  kernels::AttendArgs dense = args;
  dense.selected = nullptr;
  dense.counts = nullptr;
  dense.groups = 1;
  dense.out = dense_out_.data();
  dense.lse = dense_lse_.as<float>();
  inner().Attend(dense);

  const auto rows = static_cast<size_t>(args.batch.num_rows);
  const auto heads = static_cast<size_t>(args.q_heads);
  const size_t width = heads * static_cast<size_t>(args.layer.head_dim);
  const std::vector<float> values = ReadActivations(args.out, rows * width);
  const std::vector<float> exact = ReadActivations(dense_out_.data(), rows * width);
  std::vector<float> sparse_lse(rows * heads);
  std::vector<float> dense_lse(rows * heads);
  inner().Download(sparse_lse.data(), sparse_lse_.data(), sparse_lse.size() * sizeof(float));
  inner().Download(dense_lse.data(), dense_lse_.data(), dense_lse.size() * sizeof(float));
  for (size_t row = 0; row < rows; ++row) {
    findings_.push_back(
        Finding{.recalled_mass = MeanMass(&sparse_lse[row * heads], &dense_lse[row * heads], heads),
                .output_error = RelativeError(&values[row * width], &exact[row * width], width)});
  }
}

std::vector<float> AttentionAudit::ReadActivations(const void* from, size_t count) {
  std::vector<float> values(count);
  if (activation_bytes() == sizeof(float)) {
    inner().Download(values.data(), from, count * sizeof(float));
    return values;
  }
  std::vector<Bf16> halves(count);
  inner().Download(halves.data(), from, count * sizeof(Bf16));
  std::transform(halves.begin(), halves.end(), values.begin(),
                 [](Bf16 half) { return ToFloat(half); });
  return values;
}

}  // namespace spotd::engine
