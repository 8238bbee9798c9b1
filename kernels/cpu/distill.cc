#include "kernels/cpu/distill.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

namespace spotd::kernels::cpu {
namespace {

void Resize(const DistillArgs& args, DistillScratch& s) {
  const auto queries = static_cast<size_t>(args.num_queries);
  const auto rows = static_cast<size_t>(args.rows);
  const auto heads = static_cast<size_t>(args.heads);
  const auto groups = static_cast<size_t>(args.groups);
  const auto dim = static_cast<size_t>(args.dim);
  const auto head_dim = static_cast<size_t>(args.layer.head_dim);
  s.x_queries.resize(queries * static_cast<size_t>(args.hidden));
  for (auto* buffer : {&s.q, &s.d_q}) buffer->resize(queries * heads * dim);
  for (auto* buffer : {&s.w, &s.d_w}) buffer->resize(queries * groups * heads);
  for (auto* buffer : {&s.k_raw, &s.k, &s.d_k}) buffer->resize(rows * dim);
  s.k_rms.resize(rows);
  s.dots.resize(heads * queries * rows);
  for (auto* buffer : {&s.scores, &s.teacher}) buffer->resize(queries * groups * rows);
  s.residual_share.resize(queries * groups);
  s.teacher_head.resize(queries * rows);
  s.teacher_q.resize(queries * head_dim);
  s.teacher_k.resize(rows * head_dim);
}

// Sequence `index` of `args` alone.
DistillArgs SequenceOf(const DistillArgs& args, int32_t index) {
  const int64_t rows = int64_t{index} * args.rows;
  DistillArgs one = args;
  one.sequences = 1;
  one.x = static_cast<const float*>(args.x) + rows * args.hidden;
  one.q = static_cast<const float*>(args.q) + rows * args.q_heads * args.layer.head_dim;
  one.block_table = args.block_table + int64_t{index} * args.table_stride;
  one.queries = args.queries + int64_t{index} * args.num_queries;
  one.positions = args.positions + rows;
  return one;
}

class CpuDistillKernels final : public DistillKernels {
 public:
  explicit CpuDistillKernels(int threads) : pool_(threads) {}

  void Accumulate(const DistillArgs& args) override {
    for (int32_t i = 0; i < args.sequences; ++i) AccumulateOne(SequenceOf(args, i));
  }

  absl::StatusOr<DistillStats> TakeStats() override { return std::exchange(stats_, {}); }

  void Zero(float* values, int64_t count) override { std::fill(values, values + count, 0.0f); }

  double SumOfSquares(const float* values, int64_t count) override {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += double{values[i]} * values[i];
    return sum;
  }

  void AdamW(const AdamWArgs& a) override {
    const auto correction1 =
        static_cast<float>(1.0 - std::pow(static_cast<double>(a.beta1), a.step));
    const auto correction2 =
        static_cast<float>(1.0 - std::pow(static_cast<double>(a.beta2), a.step));
    pool_.ParallelFor(a.count, 1 << 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const float gradient = a.gradients[i] * a.gradient_factor;
        a.first_moment[i] = a.beta1 * a.first_moment[i] + (1 - a.beta1) * gradient;
        a.second_moment[i] = a.beta2 * a.second_moment[i] + (1 - a.beta2) * gradient * gradient;
        const float step = a.first_moment[i] / correction1 /
                           (std::sqrt(a.second_moment[i] / correction2) + a.epsilon);
        a.weights[i] -= a.learning_rate * (step + a.weight_decay * a.weights[i]);
      }
    });
  }

 private:
  void AccumulateOne(const DistillArgs& args) {
    Resize(args, scratch_);
    ComputeTeacher(args, pool_, scratch_);
    ComputeStudent(args, pool_, scratch_);
    ComputeLoss(args, pool_, scratch_, &stats_);
    if (args.gradients.q != nullptr) Backpropagate(args, pool_, scratch_);
  }

  ThreadPool pool_;
  DistillScratch scratch_;
  DistillStats stats_;
};

}  // namespace

std::unique_ptr<DistillKernels> CreateCpuDistillKernels(int threads) {
  if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  return std::make_unique<CpuDistillKernels>(threads);
}

}  // namespace spotd::kernels::cpu
