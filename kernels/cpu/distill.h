// The stages of selector training on the host (see kernels/distill.h for the mathematics). Matrix
// products go to oneDNN.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/core/thread_pool.h"
#include "kernels/distill.h"

namespace spotd::kernels::cpu {

// Intermediate results of one DistillArgs, kept between calls so that training does not allocate. R
// = num_queries, L = rows, G = groups.
struct DistillScratch {
  std::vector<float> x_queries;       // [R, hidden]
  std::vector<float> q;               // [R, heads, dim] after RoPE
  std::vector<float> w;               // [R, G, heads]
  std::vector<float> k_raw;           // [L, dim] before the norm
  std::vector<float> k_rms;           // [L] 1 / rms of k_raw
  std::vector<float> k;               // [L, dim] after norm and RoPE
  std::vector<float> dots;            // [heads, R, L] q . k, then the gradient with respect to it
  std::vector<float> scores;          // [R, G, L] student scores, then their gradient
  std::vector<float> teacher;         // [R, G, L] p_t
  std::vector<float> residual_share;  // [R, G] of the residual term; they sum to 1 over groups
  std::vector<float> teacher_head;    // [R, L]
  std::vector<float> teacher_q;       // [R, head_dim] of one head
  std::vector<float> teacher_k;       // [L, head_dim] of one KV head
  std::vector<float> d_q;             // [R, heads, dim]
  std::vector<float> d_w;             // [R, G, heads]
  std::vector<float> d_k;             // [L, dim]
};

std::unique_ptr<DistillKernels> CreateCpuDistillKernels(int threads);

// p_t into scratch.teacher.
void ComputeTeacher(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch);
// Student scores into scratch.scores, with what the backward pass needs.
void ComputeStudent(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch);
// Replaces scratch.scores by d loss / d score (gradient_scale included) and adds to the statistics.
void ComputeLoss(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch,
                 DistillStats* stats);
// From d loss / d score to the parameter gradients.
void Backpropagate(const DistillArgs& args, ThreadPool& pool, DistillScratch& scratch);

// c [m, n] = alpha * op(a) op(b) + beta * c, row-major; `a` is [m, k] or, transposed, [k, m]; `b`
// likewise.
void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
          int64_t ldc);

// Rotates [rows, heads, dim] in place; `direction` is 1, or -1 for the inverse (the gradient's way
// back).
void RotateRows(const Rope& rope, const int32_t* positions, int64_t rows, int32_t heads,
                int32_t dim, float direction, float* values);

}  // namespace spotd::kernels::cpu
