#include "kernels/cpu/linear.h"

#include <cstdint>

#include "kernels/cpu/weight.h"

namespace spotd::kernels {
namespace {

void LinearRow(const LinearArgs& args, const LinearOutput& output, int64_t row, float* weights) {
  const auto& weight = static_cast<const CpuWeight&>(*output.weight);
  weight.DecodeRow(row, weights);
  for (int64_t i = 0; i < args.rows; ++i) {
    const float* x = static_cast<const float*>(args.x) + i * args.in_dim;
    float sum = output.bias == nullptr ? 0 : output.bias[row];
    for (int64_t k = 0; k < args.in_dim; ++k) sum += x[k] * weights[k];
    float& y = static_cast<float*>(output.y)[i * weight.rows() + row];
    y = output.accumulate ? y + sum : sum;
  }
}

}  // namespace

void CpuLinear(const LinearArgs& args, ThreadPool& pool, LinearScratch& scratch) {
  float* const weights =
      scratch.Floats(static_cast<size_t>(args.in_dim) * static_cast<size_t>(pool.num_threads()));
  for (int i = 0; i < args.num_outputs; ++i) {
    const LinearOutput& output = args.outputs[i];
    pool.ParallelFor(output.weight->rows(), 16, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t row = begin; row < end; ++row) {
        LinearRow(args, output, row, weights + static_cast<int64_t>(thread) * args.in_dim);
      }
    });
  }
}

void CpuEmbed(const EmbedArgs& args, ThreadPool& pool) {
  const auto& table = static_cast<const CpuWeight&>(*args.table);
  pool.ParallelFor(args.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      table.DecodeRow(args.tokens[i], static_cast<float*>(args.out) + i * table.cols());
    }
  });
}

}  // namespace spotd::kernels
