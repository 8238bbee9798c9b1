#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill_stages.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kKNormRows = 128;  // summed by a block

// One block a query.
__global__ void GatherKernel(DistillArgs args, DistillScratch s) {
  const int query = blockIdx.x;
  const int sequence = query / args.num_queries;
  const auto* from = static_cast<const uint16_t*>(args.x) +
                     (int64_t{sequence} * args.rows + args.queries[query]) * args.hidden;
  uint16_t* to = s.x_queries + int64_t{query} * args.hidden;
  for (int i = threadIdx.x; i < args.hidden; i += kThreads) to[i] = from[i];
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

// Rounds a key, one warp, as kernels/core/selector_key.h stores it. A group of 32 or 16 dimensions
// lies in as many neighbouring lanes.
__device__ void RoundKey(SelectorKeyFormat format, int dim, float* k) {
  for (int i = threadIdx.x % 32; i < dim; i += 32) {
    float largest = fabsf(k[i]);
    for (int offset = SelectorKeyGroup(format) / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullMask, largest, offset));
    }
    if (format == SelectorKeyFormat::kBf16) {
      k[i] = ToFloat(ToBf16(k[i]));
    } else if (format == SelectorKeyFormat::kInt4) {
      const Fp16 scale = Int4Scale(largest);
      k[i] = Int4Value(Int4Code(k[i], scale), scale);
    } else if (format == SelectorKeyFormat::kFp4) {
      const uint8_t scale = Fp4Scale(largest);
      k[i] = Fp4Value(Fp4Code(k[i], scale), scale);
    }
  }
}

// The RoPE position of vector `vector` of q or d_q: [S * R, heads].
__device__ int QueryPosition(const DistillArgs& args, int vector) {
  const int query = vector / args.heads;
  return args.positions[int64_t{query / args.num_queries} * args.rows + args.queries[query]];
}

// One warp per vector: first the keys, then the heads' queries.
__global__ void NormRopeKernel(DistillArgs args, DistillScratch s) {
  const int warp = (blockIdx.x * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int keys = args.sequences * args.rows;
  if (warp < keys) {
    const float* raw = s.k_raw + int64_t{warp} * args.dim;
    float squares = 0;
    for (int i = lane; i < args.dim; i += 32) squares += raw[i] * raw[i];
    const float rms = rsqrtf(WarpSum(squares) / args.dim + args.norm_eps);
    if (lane == 0) s.k_rms[warp] = rms;
    float* k = s.k + int64_t{warp} * args.dim;
    for (int i = lane; i < args.dim; i += 32) k[i] = raw[i] * rms * args.weights.k_norm[i];
    __syncwarp();
    RotateVector(args.rope, args.positions[warp], 1.0f, k);
    __syncwarp();
    if (args.key_rounding != SelectorKeyFormat::kNone) RoundKey(args.key_rounding, args.dim, k);
    return;
  }
  const int vector = warp - keys;
  if (vector >= args.sequences * args.num_queries * args.heads) return;
  RotateVector(args.rope, QueryPosition(args, vector), 1.0f, s.q + int64_t{vector} * args.dim);
}

__global__ void NormRopeBackwardKernel(DistillArgs args, DistillScratch s) {
  const int warp = (blockIdx.x * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int keys = args.sequences * args.rows;
  if (warp < keys) {
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
  const int vector = warp - keys;
  if (vector >= args.sequences * args.num_queries * args.heads) return;
  RotateVector(args.rope, QueryPosition(args, vector), -1.0f, s.d_q + int64_t{vector} * args.dim);
}

// partials[block][i] = the sum of s.k[row][i] over the block's rows.
__global__ void KNormPartialsKernel(DistillArgs args, DistillScratch s) {
  __shared__ float sums[kThreads];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t keys = int64_t{args.sequences} * args.rows;
  const int64_t begin = int64_t{blockIdx.x} * kKNormRows;
  const int64_t end = min(begin + kKNormRows, keys);
  for (int first = 0; first < args.dim; first += 32) {
    const int i = first + lane;
    float sum = 0;
    for (int64_t row = begin + warp; row < end && i < args.dim; row += kThreads / 32) {
      sum += s.k[row * args.dim + i];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && i < args.dim) {
      for (int other = 32; other < kThreads; other += 32) sum += sums[other + lane];
      s.partials[int64_t{blockIdx.x} * args.dim + i] = sum;
    }
    __syncthreads();
  }
}

int VectorBlocks(const DistillArgs& args) {
  const int warps = args.sequences * (args.rows + args.num_queries * args.heads);
  return (warps + kThreads / 32 - 1) / (kThreads / 32);
}

int KNormBlocks(const DistillArgs& args) {
  return (args.sequences * args.rows + kKNormRows - 1) / kKNormRows;
}

}  // namespace

cudaError_t LaunchGather(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  GatherKernel<<<args.sequences * args.num_queries, kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

cudaError_t LaunchNormRope(cudaStream_t stream, const DistillArgs& args, const DistillScratch& s) {
  NormRopeKernel<<<VectorBlocks(args), kThreads, 0, stream>>>(args, s);
  return cudaGetLastError();
}

int64_t KNormPartials(const DistillArgs& args) {
  return int64_t{KNormBlocks(args)} * args.dim;
}

cudaError_t LaunchNormRopeBackward(cudaStream_t stream, const DistillArgs& args,
                                   const DistillScratch& s) {
  NormRopeBackwardKernel<<<VectorBlocks(args), kThreads, 0, stream>>>(args, s);
  KNormPartialsKernel<<<KNormBlocks(args), kThreads, 0, stream>>>(args, s);
  return LaunchAddPartials(stream, s.partials, KNormBlocks(args), args.dim, args.gradients.k_norm);
}

}  // namespace spotd::kernels::cuda
