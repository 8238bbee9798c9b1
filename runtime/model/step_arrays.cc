#include "runtime/model/step_arrays.h"

#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace spotd::model {
namespace {

// Hands out consecutive arrays of a block, each on its own cache lines.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* Take(size_t count) {
    T* out = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return out;
  }
  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlignment = 64;
  char* base_;
  size_t used_ = 0;
};

StepInputs CarveInputs(Carver& carver, const StepShape& shape) {
  const auto rows = static_cast<size_t>(shape.rows);
  const auto seqs = static_cast<size_t>(shape.seqs);
  StepInputs out;
  out.tokens = carver.Take<int32_t>(rows);
  out.positions = carver.Take<int32_t>(rows);
  out.kv_len = carver.Take<int32_t>(seqs);
  out.row_start = carver.Take<int32_t>(seqs + 1);
  out.rules = carver.Take<kernels::BudgetRule>(seqs * static_cast<size_t>(shape.layers));
  out.sampling = carver.Take<kernels::SamplingParams>(seqs);
  out.adjustment_start = carver.Take<int32_t>(seqs + 1);
  out.block_tables = carver.Take<int32_t>(seqs * static_cast<size_t>(shape.table_stride));
  return out;
}

StepResults CarveResults(Carver& carver, int32_t rows, int32_t layers, int32_t kv_heads) {
  const size_t choices =
      static_cast<size_t>(layers) * static_cast<size_t>(rows) * static_cast<size_t>(kv_heads);
  StepResults out;
  out.tokens = carver.Take<int32_t>(static_cast<size_t>(rows));
  out.logprobs = carver.Take<float>(static_cast<size_t>(rows));
  out.counts = carver.Take<int32_t>(choices);
  out.covered_mass = carver.Take<float>(choices);
  return out;
}

}  // namespace

StepInputs StepInputs::At(void* base, const StepShape& shape) {
  Carver carver(base);
  return CarveInputs(carver, shape);
}

size_t StepInputs::Bytes(const StepShape& shape) {
  Carver carver(nullptr);
  CarveInputs(carver, shape);
  return carver.used();
}

StepResults StepResults::At(void* base, int32_t rows, int32_t layers, int32_t kv_heads) {
  Carver carver(base);
  return CarveResults(carver, rows, layers, kv_heads);
}

size_t StepResults::Bytes(int32_t rows, int32_t layers, int32_t kv_heads) {
  Carver carver(nullptr);
  CarveResults(carver, rows, layers, kv_heads);
  return carver.used();
}

absl::StatusOr<Staging> Staging::Create(kernels::Backend* backend, size_t bytes) {
  Staging out;
  out.host_.resize((bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
  SPOTD_ASSIGN_OR_RETURN(out.device_, backend->Allocate(bytes));
  return out;
}

void Staging::Upload(kernels::Backend* backend, size_t bytes) {
  SPOTD_CHECK(bytes <= device_.bytes());
  backend->Upload(device_.data(), host_.data(), bytes);
}

void Staging::Download(kernels::Backend* backend, size_t bytes) {
  SPOTD_CHECK(bytes <= device_.bytes());
  backend->Download(host_.data(), device_.data(), bytes);
}

void AdjustmentList::Append(const kernels::TokenAdjustment* first, size_t count) {
  host_.insert(host_.end(), first, first + count);
}

absl::Status AdjustmentList::Upload(kernels::Backend* backend) {
  if (host_.empty()) return absl::OkStatus();
  const size_t bytes = host_.size() * sizeof(kernels::TokenAdjustment);
  if (bytes > device_.bytes()) {
    const size_t room = std::max<size_t>(2 * device_.bytes(), std::max<size_t>(bytes, 4096));
    SPOTD_ASSIGN_OR_RETURN(device_, backend->Allocate(room));
    ++generation_;
  }
  backend->Upload(device_.data(), host_.data(), bytes);
  return absl::OkStatus();
}

const kernels::TokenAdjustment* AdjustmentList::device() const {
  return host_.empty() ? nullptr : device_.as<kernels::TokenAdjustment>();
}

}  // namespace spotd::model
