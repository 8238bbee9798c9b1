#include <cmath>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill_limits.h"
#include "kernels/cuda/distill_stages.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kTiny = 1e-12f;

__device__ float BlockMax(float v, float* scratch) {
  return BlockReduce<true>(v, scratch);
}
__device__ float BlockSum(float v, float* scratch) {
  return BlockReduce<false>(v, scratch);
}

// The student's scores of one group of query `query` into `scores`: sum over heads of w relu(q . k)
// / sqrt(dim). `choice` counts the groups of all queries.
__device__ void MixHeads(const DistillArgs& args, const DistillScratch& s, int64_t query,
                         int64_t choice, int visible, float* scores) {
  const float scale = rsqrtf(static_cast<float>(args.dim));
  for (int j = threadIdx.x; j < visible; j += kThreads) {
    float score = 0;
    for (int h = 0; h < args.heads; ++h) {
      const float dot = s.dots[(query * args.heads + h) * s.stride + j];
      score += s.w[choice * args.heads + h] * fmaxf(dot, 0.0f);
    }
    scores[j] = score * scale;
  }
}

// From the gradients of all groups' scores to d_w and to the gradient of q . k, which replaces it.
__device__ void UnmixHeads(const DistillArgs& args, const DistillScratch& s, int64_t query,
                           int visible, float* scratch) {
  const float scale = rsqrtf(static_cast<float>(args.dim));
  const int64_t first = query * args.groups;
  const float* d_scores = s.d_scores + first * s.stride;
  for (int h = 0; h < args.heads; ++h) {
    float* dots = s.dots + (query * args.heads + h) * s.stride;
    const float* w = s.w + first * args.heads + h;
    for (int group = 0; group < args.groups; ++group) {
      const bool last = group + 1 == args.groups;
      float d_weight = 0;
      for (int j = threadIdx.x; j < args.rows; j += kThreads) {
        const float dot = dots[j];
        const bool active = j < visible && dot > 0.0f;
        if (active) d_weight += d_scores[group * s.stride + j] * dot;
        if (!last) continue;
        float d_dot = 0;
        for (int g = 0; active && g < args.groups; ++g)
          d_dot += d_scores[g * s.stride + j] * (w[g * args.heads] * scale);
        dots[j] = d_dot;
      }
      d_weight = BlockSum(d_weight, scratch);
      if (threadIdx.x == 0) s.d_w[(first + group) * args.heads + h] = d_weight * scale;
    }
  }
}

// What one block works on: the probabilities of a query and group in shared memory, cut into
// reserved and residual.
struct Query {
  int visible;
  int sinks;
  int recency_begin;
  int blocks;
  const float* teacher;   // global
  float* student;         // shared [visible]
  float* mass;            // shared [blocks]
  unsigned char* chosen;  // shared [blocks]
  float* scratch;         // shared [33]
};

// The blocks a budget of `fraction` of the visible ones reads: reserved, then the student's
// heaviest (ties: lower index).
__device__ void ChooseBlocks(const Query& q, int block_tokens, float fraction) {
  float reserved = 0;
  for (int b = threadIdx.x; b < q.blocks; b += kThreads) {
    const int begin = b * block_tokens;
    const int end = min(begin + block_tokens, q.visible);
    q.chosen[b] = begin < q.sinks || end > q.recency_begin;
    reserved += q.chosen[b];
    float mass = 0;
    for (int j = begin; j < end; ++j) mass += q.student[j];
    q.mass[b] = mass;
  }
  const int budget = static_cast<int>(ceilf(fraction * q.blocks)) -
                     static_cast<int>(BlockSum(reserved, q.scratch));
  // BlockSum's barriers also publish mass and chosen. Rank by counting: a few hundred blocks at
  // most.
  for (int b = threadIdx.x; b < q.blocks; b += kThreads) {
    int ahead = 0;
    for (int other = 0; other < q.blocks; ++other) {
      const bool heavier = q.mass[other] > q.mass[b] || (q.mass[other] == q.mass[b] && other < b);
      ahead += (q.chosen[other] & 1) == 0 && heavier;
    }
    if ((q.chosen[b] & 1) == 0 && ahead < budget)
      q.chosen[b] = 2;  // 2: picked, still unreserved for the others' ranks
  }
  __syncthreads();
}

// KL between both sides restricted to in(j); adds weight * gradient to d_score.
template <typename In>
__device__ float RestrictedKl(const Query& q, const In& in, float weight, float gradient_scale,
                              float* d_score) {
  float teacher_mass = 0;
  float student_mass = 0;
  for (int j = threadIdx.x; j < q.visible; j += kThreads) {
    if (!in(j)) continue;
    teacher_mass += q.teacher[j];
    student_mass += q.student[j];
  }
  teacher_mass = BlockSum(teacher_mass, q.scratch);
  student_mass = BlockSum(student_mass, q.scratch);
  if (teacher_mass < kTiny || student_mass < kTiny) return 0;
  float kl = 0;
  for (int j = threadIdx.x; j < q.visible; j += kThreads) {
    if (!in(j)) continue;
    const float t = q.teacher[j] / teacher_mass;
    const float p = q.student[j] / student_mass;
    if (t > 0) kl += t * (logf(t) - logf(fmaxf(p, 1e-30f)));
    d_score[j] += gradient_scale * weight * (p - t);
  }
  return BlockSum(kl, q.scratch);
}

// The student's softmax over what the query sees, in place.
__device__ void Softmax(const Query& q) {
  float max = -INFINITY;
  for (int j = threadIdx.x; j < q.visible; j += kThreads) max = fmaxf(max, q.student[j]);
  max = BlockMax(max, q.scratch);
  float sum = 0;
  for (int j = threadIdx.x; j < q.visible; j += kThreads)
    sum += q.student[j] = expf(q.student[j] - max);
  const float factor = 1.0f / BlockSum(sum, q.scratch);
  for (int j = threadIdx.x; j < q.visible; j += kThreads) q.student[j] *= factor;
  __syncthreads();
}

__device__ float ChosenMass(const Query& q, int block_tokens, const float* probabilities) {
  float mass = 0;
  for (int j = threadIdx.x; j < q.visible; j += kThreads)
    mass += q.chosen[j / block_tokens] ? probabilities[j] : 0.0f;
  return BlockSum(mass, q.scratch);
}

// The loss of one query and group, whose student's probabilities are in q.student: figures into
// `figures` (thread 0's), the gradient into d_score.
__device__ void ChoiceLoss(const DistillArgs& args, const Query& q, float residual_share,
                           float* d_score, double (&figures)[kStatCount]) {
  const int block_tokens = args.layer.block_tokens;
  const float gradient_scale = args.gradient_scale / args.groups;
  for (int j = threadIdx.x; j < q.visible; j += kThreads) d_score[j] = 0;
  const bool sparse = args.sparse_fraction > 0;
  const auto everywhere = [](int) { return true; };
  const float kl =
      RestrictedKl(q, everywhere, sparse ? 0.0f : args.full_weight, gradient_scale, d_score);
  float first_term = kl;
  if (sparse) {
    ChooseBlocks(q, block_tokens, args.sparse_fraction);
    const auto read = [&](int j) { return q.chosen[j / block_tokens] != 0; };
    first_term = RestrictedKl(q, read, args.full_weight, gradient_scale, d_score);
  }
  const auto residual_tokens = [&](int j) { return j >= q.sinks && j < q.recency_begin; };
  // Times groups: what follows is a mean over them.
  const float residual_weight = args.residual_weight * args.groups * residual_share;
  const float residual = RestrictedKl(q, residual_tokens, residual_weight, gradient_scale, d_score);

  ChooseBlocks(q, block_tokens, args.recall_fraction);
  const double share = 1.0 / args.groups;
  figures[0] += share * (args.full_weight * first_term + residual_weight * residual);
  figures[1] += share * kl;
  figures[2] += share * residual;
  figures[3] += share * ChosenMass(q, block_tokens, q.teacher);
  figures[4] += share * ChosenMass(q, block_tokens, q.student);
}

// One block a query; groups one after the other.
__global__ void LossKernel(DistillArgs args, DistillScratch s) {
  extern __shared__ float shared[];
  __shared__ float scratch[kLossScratch];
  const int64_t query = blockIdx.x;
  const int block_tokens = args.layer.block_tokens;
  const int max_blocks = (args.rows + block_tokens - 1) / block_tokens;
  Query q;
  q.visible = args.queries[query] + 1;
  q.sinks = min(args.sink_tokens, q.visible);
  q.recency_begin = max(q.sinks, q.visible - args.recency_tokens);
  q.blocks = (q.visible + block_tokens - 1) / block_tokens;
  q.student = shared;
  q.mass = shared + args.rows;
  q.chosen = reinterpret_cast<unsigned char*>(q.mass + max_blocks);
  q.scratch = scratch;
  double figures[kStatCount] = {};
  figures[5] = 1;
  for (int group = 0; group < args.groups; ++group) {
    const int64_t choice = query * args.groups + group;
    q.teacher = s.teacher + choice * s.stride;
    __syncthreads();  // the group before has been read
    MixHeads(args, s, query, choice, q.visible, q.student);
    __syncthreads();
    Softmax(q);
    ChoiceLoss(args, q, s.residual_share[choice], s.d_scores + choice * s.stride, figures);
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStatCount; ++i) s.query_stats[query * kStatCount + i] = figures[i];
  }
  if (args.gradients.q != nullptr) UnmixHeads(args, s, query, q.visible, scratch);
}

// stats += the sum of query_stats; one warp a figure, always in the same order.
__global__ void SumStatsKernel(DistillArgs args, DistillScratch s) {
  const int figure = threadIdx.x / 32;
  double sum = 0;
  for (int r = threadIdx.x % 32; r < args.sequences * args.num_queries; r += 32)
    sum += s.query_stats[int64_t{r} * kStatCount + figure];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullMask, sum, offset);
  if (threadIdx.x % 32 == 0) s.stats[figure] += sum;
}

}  // namespace

cudaError_t LaunchLoss(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  const size_t shared = LossSharedBytes(args.rows, args.layer.block_tokens);
  const cudaError_t error = cudaFuncSetAttribute(
      LossKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  LossKernel<<<args.sequences * args.num_queries, kThreads, shared, stream>>>(args, s);
  SumStatsKernel<<<1, 32 * kStatCount, 0, stream>>>(args, s);
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
