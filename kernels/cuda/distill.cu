#include "kernels/cuda/distill.h"

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill_stages.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kAlign = 256;

// Hands out aligned pieces of one allocation; with a null base it only counts.
struct Carver {
  char* base;
  size_t used = 0;
  template <typename T>
  T* Take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base + used);
    used += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return piece;
  }
};

DistillScratch Carve(const DistillArgs& a, Carver& carver) {
  const int64_t queries = a.num_queries;
  const int64_t rows = a.rows;
  const int64_t q_width = int64_t{a.heads} * a.dim;
  DistillScratch s;
  s.x_queries = carver.Take<float>(queries * a.hidden);
  s.x = carver.Take<float>(rows * a.hidden);
  s.q = carver.Take<float>(queries * q_width);
  s.w = carver.Take<float>(queries * a.heads);
  s.k_raw = carver.Take<float>(rows * a.dim);
  s.k_rms = carver.Take<float>(rows);
  s.k = carver.Take<float>(rows * a.dim);
  s.dots = carver.Take<float>(a.heads * queries * rows);
  s.scores = carver.Take<float>(queries * rows);
  s.teacher = carver.Take<float>(a.q_heads * queries * rows);
  s.teacher_q = carver.Take<float>(a.q_heads * queries * a.layer.head_dim);
  s.teacher_k = carver.Take<float>(a.layer.kv_heads * rows * a.layer.head_dim);
  s.d_q = carver.Take<float>(queries * q_width);
  s.d_w = carver.Take<float>(queries * a.heads);
  s.d_k = carver.Take<float>(rows * a.dim);
  s.query_stats = carver.Take<double>(queries * kStatCount);
  return s;
}

// op(a) [m, k] op(b) [k, n] with dense rows.
GemmProblem Product(const float* a, int lda, bool transpose_a, const float* b, int ldb,
                    bool transpose_b, float* c, int ldc, int m, int n, int k, float beta) {
  GemmProblem p{};
  p.a = a;
  p.b = b;
  p.c = c;
  p.m = m;
  p.n = n;
  p.k = k;
  p.lda = lda;
  p.ldb = ldb;
  p.ldc = ldc;
  p.transpose_a = transpose_a;
  p.transpose_b = transpose_b;
  p.alpha = 1;
  p.beta = beta;
  p.batch = 1;
  p.b_share = 1;
  return p;
}

// Keeps the first error of a sequence of launches.
struct Chain {
  cudaError_t error = cudaSuccess;
  void operator()(cudaError_t next) {
    if (error == cudaSuccess) error = next;
  }
};

void Forward(cudaStream_t stream, const DistillArgs& a, const DistillScratch& s, Chain& run) {
  run(LaunchGather(stream, a, s));
  GemmProblem teacher =
      Product(s.teacher_q, a.layer.head_dim, false, s.teacher_k, a.layer.head_dim, true, s.teacher,
              a.rows, a.num_queries, a.rows, a.layer.head_dim, 0);
  teacher.alpha = a.teacher_scale;
  teacher.batch = a.q_heads;
  teacher.b_share = a.q_heads / a.layer.kv_heads;
  teacher.stride_a = int64_t{a.num_queries} * a.layer.head_dim;
  teacher.stride_b = int64_t{a.rows} * a.layer.head_dim;
  teacher.stride_c = int64_t{a.num_queries} * a.rows;
  run(LaunchDistillGemm(stream, teacher));
  run(LaunchTeacherMean(stream, a, s));
  GemmProblem queries = Product(s.x_queries, a.hidden, false, a.weights.q, a.hidden, true, s.q,
                                a.dim, a.num_queries, a.dim, a.hidden, 0);
  queries.batch = a.heads;
  queries.stride_b = int64_t{a.dim} * a.hidden;
  queries.stride_c = int64_t{a.num_queries} * a.dim;
  run(LaunchDistillGemm(stream, queries));
  run(LaunchDistillGemm(stream, Product(s.x_queries, a.hidden, false, a.weights.w, a.hidden, true,
                                        s.w, a.heads, a.num_queries, a.heads, a.hidden, 0)));
  run(LaunchDistillGemm(stream, Product(s.x, a.hidden, false, a.weights.k, a.hidden, true, s.k_raw,
                                        a.dim, a.rows, a.dim, a.hidden, 0)));
  run(LaunchNormRope(stream, a, s));
  // All heads' queries against the keys: [heads * R, dim] times [L, dim]^T.
  run(LaunchDistillGemm(stream, Product(s.q, a.dim, false, s.k, a.dim, true, s.dots, a.rows,
                                        a.heads * a.num_queries, a.rows, a.dim, 0)));
  run(LaunchMixHeads(stream, a, s));
}

void Backward(cudaStream_t stream, const DistillArgs& a, const DistillScratch& s, Chain& run) {
  const int all_queries = a.heads * a.num_queries;
  run(LaunchMixHeadsBackward(stream, a, s));
  run(LaunchDistillGemm(stream, Product(s.dots, a.rows, false, s.k, a.dim, false, s.d_q, a.dim,
                                        all_queries, a.dim, a.rows, 0)));
  run(LaunchDistillGemm(stream, Product(s.dots, a.rows, true, s.q, a.dim, false, s.d_k, a.dim,
                                        a.rows, a.dim, all_queries, 0)));
  run(LaunchNormRopeBackward(stream, a, s));
  GemmProblem d_weights = Product(s.d_q, a.dim, true, s.x_queries, a.hidden, false, a.gradients.q,
                                  a.hidden, a.dim, a.hidden, a.num_queries, 1);
  d_weights.batch = a.heads;
  d_weights.b_share = a.heads;
  d_weights.stride_a = int64_t{a.num_queries} * a.dim;
  d_weights.stride_c = int64_t{a.dim} * a.hidden;
  run(LaunchDistillGemm(stream, d_weights));
  run(LaunchDistillGemm(
      stream, Product(s.d_w, a.heads, true, s.x_queries, a.hidden, false, a.gradients.w, a.hidden,
                      a.heads, a.hidden, a.num_queries, 1)));
  run(LaunchDistillGemm(stream, Product(s.d_k, a.dim, true, s.x, a.hidden, false, a.gradients.k,
                                        a.hidden, a.dim, a.hidden, a.rows, 1)));
}

__global__ void SquaresKernel(const float* values, int64_t count, double* partials) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    sum += static_cast<double>(values[i]) * values[i];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) partials[blockIdx.x] = sums[0];
}

__global__ void SumPartialsKernel(const double* partials, double* out) {
  double sum = 0;
  for (int i = 0; i < kSumPartials; ++i) sum += partials[i];
  *out = sum;
}

__global__ void AdamWKernel(AdamWArgs a, float correction1, float correction2) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const float gradient = a.gradients[i] * a.gradient_factor;
  const float m = a.first_moment[i] = a.beta1 * a.first_moment[i] + (1 - a.beta1) * gradient;
  const float v = a.second_moment[i] =
      a.beta2 * a.second_moment[i] + (1 - a.beta2) * gradient * gradient;
  const float step = m / correction1 / (sqrtf(v / correction2) + a.epsilon);
  a.weights[i] -= a.learning_rate * (step + a.weight_decay * a.weights[i]);
}

}  // namespace

size_t DistillScratchBytes(const DistillArgs& args) {
  Carver counter{nullptr};
  Carve(args, counter);
  return counter.used;
}

DistillScratch CarveDistillScratch(const DistillArgs& args, void* memory, double* stats) {
  Carver carver{static_cast<char*>(memory)};
  DistillScratch scratch = Carve(args, carver);
  scratch.stats = stats;
  return scratch;
}

cudaError_t LaunchDistill(cudaStream_t stream, const DistillArgs& args,
                          const DistillScratch& scratch) {
  Chain run;
  Forward(stream, args, scratch, run);
  run(LaunchLoss(stream, args, scratch));
  Backward(stream, args, scratch, run);
  return run.error;
}

cudaError_t LaunchSumOfSquares(cudaStream_t stream, const float* values, int64_t count,
                               double* partials, double* out) {
  SquaresKernel<<<kSumPartials, kThreads, 0, stream>>>(values, count, partials);
  SumPartialsKernel<<<1, 1, 0, stream>>>(partials, out);
  return cudaGetLastError();
}

cudaError_t LaunchAdamW(cudaStream_t stream, const AdamWArgs& args, float correction1,
                        float correction2) {
  const int64_t blocks = (args.count + kThreads - 1) / kThreads;
  AdamWKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args, correction1,
                                                                      correction2);
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
