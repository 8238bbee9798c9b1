#include <cmath>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill_stages.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kRecallFraction = 0.10f;
constexpr float kTiny = 1e-12f;

__device__ float BlockMax(float v, float* scratch) {
  return BlockReduce<true>(v, scratch);
}
__device__ float BlockSum(float v, float* scratch) {
  return BlockReduce<false>(v, scratch);
}

__global__ void TeacherMeanKernel(DistillArgs args, DistillScratch s) {
  __shared__ float scratch[33];
  const int r = blockIdx.x;
  const int visible = args.queries[r] + 1;
  const int64_t head_stride = int64_t{args.num_queries} * args.rows;
  float* out =
      s.teacher +
      int64_t{r} * args.rows;  // also head 0's logits: each thread reads its own before it writes
  for (int head = 0; head < args.q_heads; ++head) {
    float* logits = out + head * head_stride;
    float max = -INFINITY;
    for (int j = threadIdx.x; j < visible; j += kThreads) max = fmaxf(max, logits[j]);
    max = BlockMax(max, scratch);
    float sum = 0;
    for (int j = threadIdx.x; j < visible; j += kThreads) sum += __expf(logits[j] - max);
    const float factor = 1.0f / (BlockSum(sum, scratch) * args.q_heads);
    for (int j = threadIdx.x; j < visible; j += kThreads) {
      const float p = factor * __expf(logits[j] - max);
      out[j] = head == 0 ? p : out[j] + p;
    }
  }
}

__global__ void MixHeadsKernel(DistillArgs args, DistillScratch s) {
  const int r = blockIdx.x;
  const int visible = args.queries[r] + 1;
  const float scale = rsqrtf(static_cast<float>(args.dim));
  for (int j = threadIdx.x; j < visible; j += kThreads) {
    float score = 0;
    for (int h = 0; h < args.heads; ++h) {
      const float dot = s.dots[(int64_t{h} * args.num_queries + r) * args.rows + j];
      score += s.w[r * args.heads + h] * fmaxf(dot, 0.0f);
    }
    s.scores[int64_t{r} * args.rows + j] = score * scale;
  }
}

// What one block works on: the probabilities of a query in shared memory, cut into reserved and
// residual.
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

__global__ void LossKernel(DistillArgs args, DistillScratch s) {
  extern __shared__ float shared[];
  __shared__ float scratch[33];
  const int r = blockIdx.x;
  const int block_tokens = args.layer.block_tokens;
  const int max_blocks = (args.rows + block_tokens - 1) / block_tokens;
  Query q;
  q.visible = args.queries[r] + 1;
  q.sinks = min(args.sink_tokens, q.visible);
  q.recency_begin = max(q.sinks, q.visible - args.recency_tokens);
  q.blocks = (q.visible + block_tokens - 1) / block_tokens;
  q.teacher = s.teacher + int64_t{r} * args.rows;
  q.student = shared;
  q.mass = shared + args.rows;
  q.chosen = reinterpret_cast<unsigned char*>(q.mass + max_blocks);
  q.scratch = scratch;

  float* d_score = s.scores + int64_t{r} * args.rows;
  float max = -INFINITY;
  for (int j = threadIdx.x; j < q.visible; j += kThreads) max = fmaxf(max, d_score[j]);
  max = BlockMax(max, scratch);
  float sum = 0;
  for (int j = threadIdx.x; j < q.visible; j += kThreads)
    sum += q.student[j] = expf(d_score[j] - max);
  const float factor = 1.0f / BlockSum(sum, scratch);
  for (int j = threadIdx.x; j < args.rows; j += kThreads) {
    if (j < q.visible) q.student[j] *= factor;
    d_score[j] = 0;
  }
  __syncthreads();

  const bool sparse = args.sparse_fraction > 0;
  const auto everywhere = [](int) { return true; };
  const float kl =
      RestrictedKl(q, everywhere, sparse ? 0.0f : args.full_weight, args.gradient_scale, d_score);
  float first_term = kl;
  if (sparse) {
    ChooseBlocks(q, block_tokens, args.sparse_fraction);
    const auto read = [&](int j) { return q.chosen[j / block_tokens] != 0; };
    first_term = RestrictedKl(q, read, args.full_weight, args.gradient_scale, d_score);
  }
  const auto residual_tokens = [&](int j) { return j >= q.sinks && j < q.recency_begin; };
  const float residual =
      RestrictedKl(q, residual_tokens, args.residual_weight, args.gradient_scale, d_score);

  ChooseBlocks(q, block_tokens, kRecallFraction);
  float recalled = 0;
  for (int j = threadIdx.x; j < q.visible; j += kThreads)
    recalled += q.chosen[j / block_tokens] ? q.teacher[j] : 0.0f;
  recalled = BlockSum(recalled, scratch);
  if (threadIdx.x == 0) {
    double* out = s.query_stats + r * kStatCount;
    out[0] = args.full_weight * first_term + args.residual_weight * residual;
    out[1] = kl;
    out[2] = residual;
    out[3] = recalled;
    out[4] = 1;
  }
}

// stats += the sum of query_stats; one warp a figure, always in the same order.
__global__ void SumStatsKernel(DistillArgs args, DistillScratch s) {
  const int figure = threadIdx.x / 32;
  double sum = 0;
  for (int r = threadIdx.x % 32; r < args.num_queries; r += 32)
    sum += s.query_stats[r * kStatCount + figure];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullMask, sum, offset);
  if (threadIdx.x % 32 == 0) s.stats[figure] += sum;
}

__global__ void MixHeadsBackwardKernel(DistillArgs args, DistillScratch s) {
  __shared__ float scratch[33];
  const int r = blockIdx.x;
  const int h = blockIdx.y;
  const float* d_score = s.scores + int64_t{r} * args.rows;
  float* dots = s.dots + (int64_t{h} * args.num_queries + r) * args.rows;
  const float scale = rsqrtf(static_cast<float>(args.dim));
  const float weight = s.w[r * args.heads + h] * scale;
  float d_weight = 0;
  for (int j = threadIdx.x; j < args.rows; j += kThreads) {
    const bool active = j <= args.queries[r] && dots[j] > 0.0f;
    d_weight += active ? d_score[j] * dots[j] : 0.0f;
    dots[j] = active ? d_score[j] * weight : 0.0f;
  }
  d_weight = BlockSum(d_weight, scratch);
  if (threadIdx.x == 0) s.d_w[r * args.heads + h] = d_weight * scale;
}

}  // namespace

cudaError_t LaunchTeacherMean(cudaStream_t stream, const DistillArgs& args,
                              const DistillScratch& s) {
  TeacherMeanKernel<<<args.num_queries, kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

cudaError_t LaunchMixHeads(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  MixHeadsKernel<<<args.num_queries, kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

cudaError_t LaunchLoss(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  const int blocks = (args.rows + args.layer.block_tokens - 1) / args.layer.block_tokens;
  const size_t shared = (static_cast<size_t>(args.rows) + blocks) * sizeof(float) + blocks;
  const cudaError_t error = cudaFuncSetAttribute(
      LossKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  LossKernel<<<args.num_queries, kThreads, shared, stream>>>(args, s);
  SumStatsKernel<<<1, 32 * kStatCount, 0, stream>>>(args, s);
  return cudaGetLastError();
}

cudaError_t LaunchMixHeadsBackward(cudaStream_t stream, const DistillArgs& args,
                                   const DistillScratch& s) {
  MixHeadsBackwardKernel<<<dim3(args.num_queries, args.heads), kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
