#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill_stages.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Block b < rows copies row b of x; block rows + r copies query r's x and q; the rest copy keys.
__global__ void GatherKernel(DistillArgs args, DistillScratch s) {
  const int block = blockIdx.x;
  const auto* x = static_cast<const Bf16x*>(args.x);
  if (block < args.rows) {
    for (int i = threadIdx.x; i < args.hidden; i += kThreads) {
      const int64_t at = int64_t{block} * args.hidden + i;
      s.x[at] = __bfloat162float(x[at]);
    }
    const KvLayer& layer = args.layer;
    const int64_t head_elements = int64_t{layer.block_tokens} * layer.head_dim;
    const int64_t physical = args.block_table[block / layer.block_tokens];
    const auto* keys =
        static_cast<const Bf16x*>(layer.kv) + physical * 2 * layer.kv_heads * head_elements;
    for (int i = threadIdx.x; i < layer.kv_heads * layer.head_dim; i += kThreads) {
      const int head = i / layer.head_dim;
      const int dim = i % layer.head_dim;
      const Bf16x key =
          keys[head * head_elements + (block % layer.block_tokens) * layer.head_dim + dim];
      s.teacher_k[(int64_t{head} * args.rows + block) * layer.head_dim + dim] =
          __bfloat162float(key);
    }
    return;
  }
  const int r = block - args.rows;
  const int64_t row = args.queries[r];
  for (int i = threadIdx.x; i < args.hidden; i += kThreads) {
    s.x_queries[int64_t{r} * args.hidden + i] = __bfloat162float(x[row * args.hidden + i]);
  }
  const int head_dim = args.layer.head_dim;
  const auto* q = static_cast<const Bf16x*>(args.q) + row * args.q_heads * head_dim;
  for (int i = threadIdx.x; i < args.q_heads * head_dim; i += kThreads) {
    const int head = i / head_dim;
    s.teacher_q[(int64_t{head} * args.num_queries + r) * head_dim + i % head_dim] =
        __bfloat162float(q[i]);
  }
}

__device__ void RotatePair(const Rope& rope, int position, int i, float direction, float* first,
                           float* second) {
  // The angle in double: float loses the low bits that large positions need.
  const double angle = static_cast<double>(position) * static_cast<double>(rope.inv_freq[i]);
  const double turns = angle * 0.15915494309189535;
  const float reduced = static_cast<float>((turns - floor(turns)) * 6.283185307179586);
  float sine;
  float cosine;
  sincosf(reduced, &sine, &cosine);
  sine *= direction;
  const float a = *first;
  const float b = *second;
  *first = (a * cosine - b * sine) * rope.magnitude;
  *second = (b * cosine + a * sine) * rope.magnitude;
}

__device__ void RotateVector(const Rope& rope, int position, float direction, float* v) {
  const int half = rope.rotary_dim / 2;
  for (int i = threadIdx.x % 32; i < half; i += 32) {
    RotatePair(rope, position, i, direction, v + i, v + i + half);
  }
}

// One warp per vector: first the L keys, then the R * heads queries.
__global__ void NormRopeKernel(DistillArgs args, DistillScratch s) {
  const int warp = (blockIdx.x * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp < args.rows) {
    const float* raw = s.k_raw + int64_t{warp} * args.dim;
    float squares = 0;
    for (int i = lane; i < args.dim; i += 32) squares += raw[i] * raw[i];
    const float rms = rsqrtf(WarpSum(squares) / args.dim + args.norm_eps);
    if (lane == 0) s.k_rms[warp] = rms;
    float* k = s.k + int64_t{warp} * args.dim;
    for (int i = lane; i < args.dim; i += 32) k[i] = raw[i] * rms * args.weights.k_norm[i];
    __syncwarp();
    RotateVector(args.rope, args.positions[warp], 1.0f, k);
    return;
  }
  const int vector = warp - args.rows;
  if (vector >= args.num_queries * args.heads) return;
  RotateVector(args.rope, args.positions[args.queries[vector % args.num_queries]], 1.0f,
               s.q + int64_t{vector} * args.dim);
}

__global__ void NormRopeBackwardKernel(DistillArgs args, DistillScratch s) {
  const int warp = (blockIdx.x * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp < args.rows) {
    float* d_k = s.d_k + int64_t{warp} * args.dim;
    RotateVector(args.rope, args.positions[warp], -1.0f, d_k);
    __syncwarp();
    // d_k is now the gradient of n * g; s.k, no longer needed, receives its product with n for the
    // gradient of g.
    const float* raw = s.k_raw + int64_t{warp} * args.dim;
    float* product = s.k + int64_t{warp} * args.dim;
    const float rms = s.k_rms[warp];
    float dot = 0;
    for (int i = lane; i < args.dim; i += 32) {
      const float normed = raw[i] * rms;
      product[i] = d_k[i] * normed;
      dot += product[i] * args.weights.k_norm[i];
    }
    const float mean = WarpSum(dot) / args.dim;
    for (int i = lane; i < args.dim; i += 32) {
      d_k[i] = rms * (d_k[i] * args.weights.k_norm[i] - raw[i] * rms * mean);
    }
    return;
  }
  const int vector = warp - args.rows;
  if (vector >= args.num_queries * args.heads) return;
  RotateVector(args.rope, args.positions[args.queries[vector % args.num_queries]], -1.0f,
               s.d_q + int64_t{vector} * args.dim);
}

// gradients.k_norm[i] += sum over rows of s.k[row][i]; one block per dimension.
__global__ void KNormGradientKernel(DistillArgs args, DistillScratch s) {
  __shared__ float scratch[33];
  float sum = 0;
  for (int row = threadIdx.x; row < args.rows; row += kThreads)
    sum += s.k[int64_t{row} * args.dim + blockIdx.x];
  sum = BlockReduce<false>(sum, scratch);
  if (threadIdx.x == 0) args.gradients.k_norm[blockIdx.x] += sum;
}

int VectorBlocks(const DistillArgs& args) {
  const int warps = args.rows + args.num_queries * args.heads;
  return (warps + kThreads / 32 - 1) / (kThreads / 32);
}

}  // namespace

cudaError_t LaunchGather(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  GatherKernel<<<args.rows + args.num_queries, kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

cudaError_t LaunchNormRope(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  NormRopeKernel<<<VectorBlocks(args), kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

cudaError_t LaunchNormRopeBackward(cudaStream_t stream, const DistillArgs& args,
                                   const DistillScratch& s) {
  NormRopeBackwardKernel<<<VectorBlocks(args), kThreads, 0, stream>>>(args, s);
  KNormGradientKernel<<<args.dim, kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

}  // namespace spotd::kernels::cuda
