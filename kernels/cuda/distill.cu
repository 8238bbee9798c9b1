#include "kernels/cuda/distill.h"

#include <algorithm>

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

// The largest set of partial sums of any stage.
int64_t PartialFloats(const DistillArgs& a) {
  const int queries = a.sequences * a.num_queries;
  const int keys = a.sequences * a.rows;
  const auto floats = [&](int m, int k) {
    return int64_t{m} * a.hidden * SplitsFor(m, a.hidden, k);
  };
  return std::max({floats(a.heads * a.dim, queries), floats(a.groups * a.heads, queries),
                   floats(a.dim, keys), KNormPartials(a)});
}

DistillScratch Carve(const DistillArgs& a, Carver& carver) {
  const int64_t queries = int64_t{a.sequences} * a.num_queries;
  const int64_t keys = int64_t{a.sequences} * a.rows;
  const int64_t q_width = int64_t{a.heads} * a.dim;
  DistillScratch s;
  s.stride = (a.rows + 3) / 4 * 4;
  s.x_queries = carver.Take<uint16_t>(queries * a.hidden);
  s.q = carver.Take<float>(queries * q_width);
  s.w = carver.Take<float>(queries * a.groups * a.heads);
  s.k_raw = carver.Take<float>(keys * a.dim);
  s.k_rms = carver.Take<float>(keys);
  s.k = carver.Take<float>(keys * a.dim);
  s.dots = carver.Take<float>(queries * a.heads * s.stride);
  s.d_scores = carver.Take<float>(queries * a.groups * s.stride);
  s.teacher = carver.Take<float>(queries * a.groups * s.stride);
  s.residual_share = carver.Take<float>(queries * a.groups);
  s.d_q = carver.Take<float>(queries * q_width);
  s.d_w = carver.Take<float>(queries * a.groups * a.heads);
  s.d_k = carver.Take<float>(keys * a.dim);
  s.partials = carver.Take<float>(PartialFloats(a));
  s.query_stats = carver.Take<double>(queries * kStatCount);
  return s;
}

// op(a) [m, k] op(b) [k, n].
GemmProblem Product(const void* a, int lda, bool transpose_a, const void* b, int ldb,
                    bool transpose_b, float* c, int ldc, int m, int n, int k) {
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
  return p;
}

// The stages of one DistillArgs, in order. Keeps the first error.
class Stages {
 public:
  Stages(cudaStream_t stream, const DistillArgs& args, const DistillScratch& scratch)
      : stream_(stream),
        a_(args),
        s_(scratch),
        queries_(args.sequences * args.num_queries),
        keys_(args.sequences * args.rows) {}

  void Forward() {
    Run(LaunchTeacher(stream_, a_, s_));
    Run(LaunchGather(stream_, a_, s_));
    Project(s_.x_queries, queries_, a_.weights.q, a_.heads * a_.dim, s_.q);
    Project(s_.x_queries, queries_, a_.weights.w, a_.groups * a_.heads, s_.w);
    Project(a_.x, keys_, a_.weights.k, a_.dim, s_.k_raw);
    Run(LaunchNormRope(stream_, a_, s_));
    // All heads' queries of a sequence against its keys: [R * heads, dim] times [L, dim]^T.
    GemmProblem dots = Product(s_.q, a_.dim, false, s_.k, a_.dim, true, s_.dots, s_.stride,
                               HeadRows(), a_.rows, a_.dim);
    dots.stride_a = int64_t{HeadRows()} * a_.dim;
    dots.stride_b = int64_t{a_.rows} * a_.dim;
    dots.stride_c = int64_t{HeadRows()} * s_.stride;
    Batched(dots);
    Run(LaunchLoss(stream_, a_, s_));
  }

  void Backward() {
    GemmProblem d_q = Product(s_.dots, s_.stride, false, s_.k, a_.dim, false, s_.d_q, a_.dim,
                              HeadRows(), a_.dim, a_.rows);
    d_q.stride_a = int64_t{HeadRows()} * s_.stride;
    d_q.stride_b = int64_t{a_.rows} * a_.dim;
    d_q.stride_c = int64_t{HeadRows()} * a_.dim;
    Batched(d_q);
    GemmProblem d_k = Product(s_.dots, s_.stride, true, s_.q, a_.dim, false, s_.d_k, a_.dim,
                              a_.rows, a_.dim, HeadRows());
    d_k.stride_a = int64_t{HeadRows()} * s_.stride;
    d_k.stride_b = int64_t{HeadRows()} * a_.dim;
    d_k.stride_c = int64_t{a_.rows} * a_.dim;
    Batched(d_k);
    Run(LaunchNormRopeBackward(stream_, a_, s_));
    AddGradient(s_.d_q, a_.heads * a_.dim, s_.x_queries, queries_, a_.gradients.q);
    AddGradient(s_.d_w, a_.groups * a_.heads, s_.x_queries, queries_, a_.gradients.w);
    AddGradient(s_.d_k, a_.dim, a_.x, keys_, a_.gradients.k);
  }

  cudaError_t error() const { return error_; }

 private:
  int HeadRows() const { return a_.num_queries * a_.heads; }
  void Run(cudaError_t next) {
    if (error_ == cudaSuccess) error_ = next;
  }
  void Batched(GemmProblem p) {
    p.batch = a_.sequences;
    Run(LaunchDistillGemm(stream_, p));
  }
  // y [rows, width] = x weight^T
  void Project(const void* x, int rows, const float* weight, int width, float* y) {
    GemmProblem p =
        Product(x, a_.hidden, false, weight, a_.hidden, true, y, width, rows, width, a_.hidden);
    p.a_is_bf16 = true;
    Run(LaunchDistillGemm(stream_, p));
  }
  // gradient [width, hidden] += d_y^T x
  void AddGradient(const float* d_y, int width, const void* x, int rows, float* gradient) {
    GemmProblem p = Product(d_y, width, true, x, a_.hidden, false, s_.partials, a_.hidden, width,
                            a_.hidden, rows);
    p.b_is_bf16 = true;
    p.splits = SplitsFor(width, a_.hidden, rows);
    p.stride_c = int64_t{width} * a_.hidden;
    Run(LaunchDistillGemm(stream_, p));
    Run(LaunchAddPartials(stream_, s_.partials, p.splits, p.stride_c, gradient));
  }

  cudaStream_t stream_;
  const DistillArgs& a_;
  const DistillScratch& s_;
  int queries_;
  int keys_;
  cudaError_t error_ = cudaSuccess;
};

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
  Stages stages(stream, args, scratch);
  stages.Forward();
  if (args.gradients.q != nullptr) stages.Backward();
  return stages.error();
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
