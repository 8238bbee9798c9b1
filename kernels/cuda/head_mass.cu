// Quest's and the oracle's block masses: a value per query head and block, then the log of the
// heads' mean softmax.
//
// Quest's bound, sum_i max(q_i min_i, q_i max_i), is a matrix product: min against the negative
// part of q plus max against the positive part. Sixteen blocks' bounds go straight from global
// memory into tensor-core fragments, as in attend_decode.cu. The oracle reads all of K; it serves
// tests and evaluation and is written plainly.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/paged.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kBlocksPerWarp = 16;
constexpr int kHeadsPerTile = 8;
constexpr int kMeanThreads = 1024;

__host__ __device__ inline int ValueStride(const SequenceBatch& batch, int32_t block_tokens) {
  return (batch.max_kv_len + block_tokens - 1) / block_tokens;
}

// The negative or positive part of a bf16 pair.
__device__ inline uint32_t Part(uint32_t pair, bool positive) {
  const uint32_t negative = (pair & 0x80008000u) >> 15;  // 1 in the halves that are negative
  const uint32_t mask = negative * 0xffffu;
  return pair & (positive ? ~mask : mask);
}

__device__ inline uint4 Part(uint4 q, bool positive) {
  return {Part(q.x, positive), Part(q.y, positive), Part(q.z, positive), Part(q.w, positive)};
}

// values[row, head, block] for 16 blocks of one KV head per warp.
template <int kDim>
__global__ void QuestKernel(const __grid_constant__ QuestScoreArgs args, float* values) {
  AllowNext();
  WaitForPrevious();
  const KvLayer& layer = args.layer;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const int row = blockIdx.z;
  const int kv_head = blockIdx.y;
  const int group = args.q_heads / layer.kv_heads;
  const int blocks = (args.batch.kv_len[row] + layer.block_tokens - 1) / layer.block_tokens;
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kBlocksPerWarp;
  if (first >= blocks) return;
  const Bf16x* bounds[2];
  for (int half = 0; half < 2; ++half) {
    const int block = min(first + g + 8 * half, blocks - 1);
    bounds[half] = SummaryRows(layer, PhysicalBlock(args.batch, row, block), kv_head) + 8 * t;
  }
  const int stride = ValueStride(args.batch, layer.block_tokens);
  for (int tile = 0; tile * kHeadsPerTile < group; ++tile) {
    const int member = tile * kHeadsPerTile + g;
    const auto* q = static_cast<const Bf16x*>(args.q) +
                    (int64_t{row} * args.q_heads + kv_head * group + member) * kDim;
    float acc[4] = {};
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c) {
      const uint4 raw =
          member < group ? *reinterpret_cast<const uint4*>(q + c * 32 + 8 * t) : uint4{0, 0, 0, 0};
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 low = *reinterpret_cast<const uint4*>(bounds[0] + part * kDim + c * 32);
        const uint4 high = *reinterpret_cast<const uint4*>(bounds[1] + part * kDim + c * 32);
        const uint4 b = Part(raw, part == 1);
        MmaBf16(acc, low.x, high.x, low.y, high.y, b.x, b.y);
        MmaBf16(acc, low.z, high.z, low.w, high.w, b.z, b.w);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int block = first + g + i / 2 * 8;
      const int to = tile * kHeadsPerTile + 2 * t + i % 2;
      if (block >= blocks || to >= group) continue;
      values[(int64_t{row} * args.q_heads + kv_head * group + to) * stride + block] =
          acc[i] * args.scale;
    }
  }
}

// As above for any head_dim: a warp per block.
__global__ void QuestAnyKernel(const __grid_constant__ QuestScoreArgs args, float* values) {
  AllowNext();
  WaitForPrevious();
  const KvLayer& layer = args.layer;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.z;
  const int kv_head = blockIdx.y;
  const int group = args.q_heads / layer.kv_heads;
  const int blocks = (args.batch.kv_len[row] + layer.block_tokens - 1) / layer.block_tokens;
  const int block = blockIdx.x * kWarps + threadIdx.x / 32;
  if (block >= blocks) return;
  const Bf16x* bounds = SummaryRows(layer, PhysicalBlock(args.batch, row, block), kv_head);
  const int stride = ValueStride(args.batch, layer.block_tokens);
  for (int member = 0; member < group; ++member) {
    const int64_t head = int64_t{row} * args.q_heads + kv_head * group + member;
    float sum = 0;
    for (int i = lane; i < layer.head_dim; i += 32) {
      const float q =
          __bfloat162float(static_cast<const Bf16x*>(args.q)[head * layer.head_dim + i]);
      sum += q * __bfloat162float(bounds[q > 0 ? layer.head_dim + i : i]);
    }
    sum = WarpSum(sum);
    if (lane == 0) values[head * stride + block] = sum * args.scale;
  }
}

// values[row, head, block] = log sum exp of the block's scaled scores. A warp per block and query
// head.
__global__ void OracleKernel(const __grid_constant__ OracleScoreArgs args, float* values) {
  AllowNext();
  WaitForPrevious();
  const KvLayer& layer = args.layer;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.z;
  const int head = blockIdx.y;
  const int kv_len = args.batch.kv_len[row];
  const int block = blockIdx.x * kWarps + threadIdx.x / 32;
  if (block * layer.block_tokens >= kv_len) return;
  const Bf16x* keys =
      KeyRows(layer, PhysicalBlock(args.batch, row, block), head / (args.q_heads / layer.kv_heads));
  const auto* q =
      static_cast<const Bf16x*>(args.q) + (int64_t{row} * args.q_heads + head) * layer.head_dim;
  float max = -INFINITY;
  float sum = 0;
  for (int token = 0; token < min(layer.block_tokens, kv_len - block * layer.block_tokens);
       ++token) {
    float score = 0;
    for (int i = lane; i < layer.head_dim; i += 32) {
      score += __bfloat162float(q[i]) * __bfloat162float(keys[token * layer.head_dim + i]);
    }
    score = WarpSum(score) * args.scale;
    const float top = fmaxf(max, score);
    sum = sum * __expf(max - top) + __expf(score - top);
    max = top;
  }
  const int stride = ValueStride(args.batch, layer.block_tokens);
  if (lane == 0) values[(int64_t{row} * args.q_heads + head) * stride + block] = max + __logf(sum);
}

// out[row, group, block] = log of the mean over the group's heads of softmax over
// blocks(values[head])[block].
struct MeanProblem {
  const float* values;  // [rows, heads, stride]
  const int32_t* kv_len;
  int32_t stride;
  int32_t heads;  // per group
  int32_t block_tokens;
  float* out;  // [rows, groups, out_stride]
  int32_t out_stride;
};

constexpr int kMaxMeanHeads = 128;

__global__ void MeanSoftmaxKernel(const __grid_constant__ MeanProblem p) {
  __shared__ float scratch[33];
  __shared__ float lse[kMaxMeanHeads];
  AllowNext();
  WaitForPrevious();
  const int64_t choice = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;  // (row, group)
  const int blocks = (p.kv_len[blockIdx.y] + p.block_tokens - 1) / p.block_tokens;
  const float* values = p.values + choice * p.heads * p.stride;
  for (int head = 0; head < p.heads; ++head) {
    const float* x = values + int64_t{head} * p.stride;
    float max = -INFINITY;
    for (int b = threadIdx.x; b < blocks; b += kMeanThreads) max = fmaxf(max, x[b]);
    max = BlockReduce<true>(max, scratch);
    float sum = 0;
    for (int b = threadIdx.x; b < blocks; b += kMeanThreads) sum += __expf(x[b] - max);
    sum = BlockReduce<false>(sum, scratch);
    if (threadIdx.x == 0) lse[head] = max + __logf(sum);
  }
  __syncthreads();
  const float log_heads = __logf(static_cast<float>(p.heads));
  for (int b = threadIdx.x; b < blocks; b += kMeanThreads) {
    float max = -INFINITY;
    for (int head = 0; head < p.heads; ++head)
      max = fmaxf(max, values[int64_t{head} * p.stride + b] - lse[head]);
    float sum = 0;
    for (int head = 0; head < p.heads; ++head)
      sum += __expf(values[int64_t{head} * p.stride + b] - lse[head] - max);
    p.out[choice * p.out_stride + b] = max + __logf(sum) - log_heads;
  }
}

}  // namespace

size_t HeadMassScratchBytes(const SequenceBatch& batch, int32_t block_tokens, int32_t q_heads) {
  return size_t{4} * batch.num_seqs * q_heads * ValueStride(batch, block_tokens);
}

cudaError_t LaunchQuestScore(const LaunchContext& ctx, const QuestScoreArgs& args, void* scratch) {
  const int rows = args.batch.num_seqs;
  const int kv_heads = args.layer.kv_heads;
  const int group = args.q_heads / kv_heads;
  if (group > kMaxMeanHeads) return cudaErrorInvalidValue;
  auto* values = static_cast<float*>(scratch);
  const int stride = ValueStride(args.batch, args.layer.block_tokens);
  const dim3 grid(CeilDiv(stride, kWarps * kBlocksPerWarp), kv_heads, rows);
  cudaError_t error = cudaSuccess;
  switch (args.layer.head_dim) {
    case 64:
      error = Launch(ctx, QuestKernel<64>, grid, kWarps * 32, 0, args, values);
      break;
    case 128:
      error = Launch(ctx, QuestKernel<128>, grid, kWarps * 32, 0, args, values);
      break;
    case 256:
      error = Launch(ctx, QuestKernel<256>, grid, kWarps * 32, 0, args, values);
      break;
    default:
      error = Launch(ctx, QuestAnyKernel, dim3(CeilDiv(stride, kWarps), kv_heads, rows),
                     kWarps * 32, 0, args, values);
  }
  if (error != cudaSuccess) return error;
  const MeanProblem mean = {values,         args.batch.kv_len,       stride,
                            group,          args.layer.block_tokens, args.block_lse,
                            args.lse_stride};
  return Launch(ctx, MeanSoftmaxKernel, dim3(kv_heads, rows), kMeanThreads, 0, mean);
}

cudaError_t LaunchOracleScore(const LaunchContext& ctx, const OracleScoreArgs& args,
                              void* scratch) {
  if (args.q_heads / args.groups > kMaxMeanHeads) return cudaErrorInvalidValue;
  auto* values = static_cast<float*>(scratch);
  const int stride = ValueStride(args.batch, args.layer.block_tokens);
  const dim3 grid(CeilDiv(stride, kWarps), args.q_heads, args.batch.num_seqs);
  const cudaError_t error = Launch(ctx, OracleKernel, grid, kWarps * 32, 0, args, values);
  if (error != cudaSuccess) return error;
  const MeanProblem mean = {values,
                            args.batch.kv_len,
                            stride,
                            args.q_heads / args.groups,
                            args.layer.block_tokens,
                            args.block_lse,
                            args.lse_stride};
  return Launch(ctx, MeanSoftmaxKernel, dim3(args.groups, args.batch.num_seqs), kMeanThreads, 0,
                mean);
}

}  // namespace spotd::kernels::cuda
