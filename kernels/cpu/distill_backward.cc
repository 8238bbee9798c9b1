#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/distill.h"

namespace spotd::kernels::cpu {
namespace {

// From d score to d w, and scratch.dots from q . k to the gradient with respect to it.
void BackThroughMix(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(args.dim));
  pool.ParallelFor(args.num_queries, 4, [&](int64_t begin, int64_t end, int) {
    std::vector<float> d_dots(static_cast<size_t>(args.rows));
    for (int64_t r = begin; r < end; ++r) {
      const float* const d_scores = scratch.scores.data() + r * args.groups * args.rows;
      for (int32_t h = 0; h < args.heads; ++h) {
        float* dots = scratch.dots.data() + (int64_t{h} * args.num_queries + r) * args.rows;
        std::fill(d_dots.begin(), d_dots.end(), 0.0f);
        for (int64_t g = 0; g < args.groups; ++g) {
          const auto at = static_cast<size_t>((r * args.groups + g) * args.heads + h);
          const float* const d_score = d_scores + g * args.rows;
          const float weight = scratch.w[at] * scale;
          double d_weight = 0;
          for (int64_t j = 0; j < args.rows; ++j) {
            const bool active = dots[j] > 0.0f;
            d_weight += active ? double{d_score[j]} * dots[j] : 0.0;
            d_dots[j] += active ? d_score[j] * weight : 0.0f;
          }
          scratch.d_w[at] = static_cast<float>(d_weight * scale);
        }
        std::copy(d_dots.begin(), d_dots.end(), dots);
      }
    }
  });
}

// RMSNorm: with n = raw * rms and y = n * g, d raw = rms * (d n - n * mean(d n * n)), d g += d y *
// n.
void BackThroughNorm(const DistillArgs& args, DistillScratch& scratch) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* raw = scratch.k_raw.data() + row * args.dim;
    float* d_k = scratch.d_k.data() + row * args.dim;
    const float rms = scratch.k_rms[static_cast<size_t>(row)];
    double mean = 0;
    for (int32_t i = 0; i < args.dim; ++i) {
      const float normed = raw[i] * rms;
      args.gradients.k_norm[i] += d_k[i] * normed;
      d_k[i] *= args.weights.k_norm[i];
      mean += double{d_k[i]} * normed;
    }
    mean /= args.dim;
    for (int32_t i = 0; i < args.dim; ++i)
      d_k[i] = rms * (d_k[i] - raw[i] * rms * static_cast<float>(mean));
  }
}

}  // namespace

void Backpropagate(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch) {
  const int64_t hidden = args.hidden;
  const int64_t q_width = int64_t{args.heads} * args.dim;
  BackThroughMix(args, pool, scratch);
  for (int64_t h = 0; h < args.heads; ++h) {
    const float* d_dots = scratch.dots.data() + h * args.num_queries * args.rows;
    Gemm(false, false, args.num_queries, args.dim, args.rows, 1, d_dots, args.rows,
         scratch.k.data(), args.dim, 0, scratch.d_q.data() + h * args.dim, q_width);
    Gemm(true, false, args.rows, args.dim, args.num_queries, 1, d_dots, args.rows,
         scratch.q.data() + h * args.dim, q_width, h == 0 ? 0.0f : 1.0f, scratch.d_k.data(),
         args.dim);
  }
  std::vector<int32_t> query_positions(static_cast<size_t>(args.num_queries));
  for (int64_t r = 0; r < args.num_queries; ++r)
    query_positions[r] = args.positions[args.queries[r]];
  RotateRows(args.rope, query_positions.data(), args.num_queries, args.heads, args.dim, -1,
             scratch.d_q.data());
  RotateRows(args.rope, args.positions, args.rows, 1, args.dim, -1, scratch.d_k.data());
  BackThroughNorm(args, scratch);
  Gemm(true, false, q_width, hidden, args.num_queries, 1, scratch.d_q.data(), q_width,
       scratch.x_queries.data(), hidden, 1, args.gradients.q, hidden);
  const int64_t w_width = int64_t{args.groups} * args.heads;
  Gemm(true, false, w_width, hidden, args.num_queries, 1, scratch.d_w.data(), w_width,
       scratch.x_queries.data(), hidden, 1, args.gradients.w, hidden);
  Gemm(true, false, args.dim, hidden, args.rows, 1, scratch.d_k.data(), args.dim,
       static_cast<const float*>(args.x), hidden, 1, args.gradients.k, hidden);
}

}  // namespace spotd::kernels::cpu
