// Embedding lookup, RMSNorm, SwiGLU and bias: the elementwise operations of the transformer.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"

namespace spotd::kernels::cuda {
namespace {

__global__ void EmbedKernel(const Bf16x* table, const int32_t* tokens, int32_t hidden, float* out) {
  AllowNext();
  WaitForPrevious();
  const Bf16x* from = table + int64_t{tokens[blockIdx.x]} * hidden;
  float* to = out + int64_t{blockIdx.x} * hidden;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = __bfloat162float(from[i]);
}

// One thread block per row; the row stays in registers between the two passes when it fits.
constexpr int kNormThreads = 512;
constexpr int kNormRegisters = 4;  // float4 per thread: rows up to 8192 wide

__global__ void RmsNormVectorKernel(const float4* x, const float4* weight, int32_t quads, float eps,
                                    uint2* out) {
  __shared__ float scratch[33];
  AllowNext();
  x += int64_t{blockIdx.x} * quads;
  out += int64_t{blockIdx.x} * quads;
  float4 gain[kNormRegisters];
#pragma unroll
  for (int i = 0; i < kNormRegisters; ++i) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at < quads) gain[i] = weight[at];
  }
  WaitForPrevious();
  float4 held[kNormRegisters];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kNormRegisters; ++i) {
    const int at = threadIdx.x + i * blockDim.x;
    held[i] = at < quads ? x[at] : float4{0, 0, 0, 0};
    sum += held[i].x * held[i].x + held[i].y * held[i].y + held[i].z * held[i].z +
           held[i].w * held[i].w;
  }
  const float scale =
      rsqrtf(BlockReduce<false>(sum, scratch) / static_cast<float>(4 * quads) + eps);
#pragma unroll
  for (int i = 0; i < kNormRegisters; ++i) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= quads) break;
    const float4 w = gain[i];
    out[at] = {PackBf16(held[i].x * scale * w.x, held[i].y * scale * w.y),
               PackBf16(held[i].z * scale * w.z, held[i].w * scale * w.w)};
  }
}

__global__ void RmsNormKernel(const float* x, const float* weight, int32_t dim, float eps,
                              Bf16x* out) {
  __shared__ float scratch[33];
  AllowNext();
  WaitForPrevious();
  x += int64_t{blockIdx.x} * dim;
  out += int64_t{blockIdx.x} * dim;
  float sum = 0;
  for (int i = threadIdx.x; i < dim; i += blockDim.x) sum += x[i] * x[i];
  const float scale = rsqrtf(BlockReduce<false>(sum, scratch) / static_cast<float>(dim) + eps);
  for (int i = threadIdx.x; i < dim; i += blockDim.x)
    out[i] = __float2bfloat16(x[i] * scale * weight[i]);
}

__device__ inline uint32_t SwiGluPair(uint32_t gate, uint32_t up) {
  return PackBf16(SwiGluOf(LowBf16(gate), LowBf16(up)), SwiGluOf(HighBf16(gate), HighBf16(up)));
}

__global__ void SwiGluVectorKernel(const uint4* gate, const uint4* up, int64_t count, uint4* out) {
  AllowNext();
  WaitForPrevious();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const uint4 g = gate[i];
    const uint4 u = up[i];
    out[i] = {SwiGluPair(g.x, u.x), SwiGluPair(g.y, u.y), SwiGluPair(g.z, u.z),
              SwiGluPair(g.w, u.w)};
  }
}

__global__ void SwiGluKernel(const Bf16x* gate, const Bf16x* up, int64_t count, Bf16x* out) {
  AllowNext();
  WaitForPrevious();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    out[i] = __float2bfloat16(SwiGluOf(__bfloat162float(gate[i]), __bfloat162float(up[i])));
  }
}

template <typename T>
__global__ void AddBiasKernel(T* y, const float* bias, int64_t count, int32_t dim) {
  AllowNext();
  WaitForPrevious();
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    y[i] = static_cast<T>(static_cast<float>(y[i]) + bias[i % dim]);
  }
}

// Thread blocks of 256 for an elementwise kernel over `count` items: enough to fill the device, no
// more.
int ElementwiseBlocks(const LaunchContext& ctx, int64_t count) {
  const int wanted = CeilDiv(count, 256);
  return wanted < 16 * ctx.sm_count ? wanted : 16 * ctx.sm_count;
}

}  // namespace

cudaError_t LaunchEmbed(const LaunchContext& ctx, const void* table, int32_t hidden,
                        const EmbedArgs& args) {
  return Launch(ctx, EmbedKernel, args.rows, 256, 0, static_cast<const Bf16x*>(table), args.tokens,
                hidden, args.out);
}

cudaError_t LaunchRmsNorm(const LaunchContext& ctx, const RmsNormArgs& args) {
  if (args.dim % 4 == 0 && args.dim <= 4 * kNormRegisters * kNormThreads) {
    return Launch(ctx, RmsNormVectorKernel, args.rows, kNormThreads, 0,
                  reinterpret_cast<const float4*>(args.x),
                  reinterpret_cast<const float4*>(args.weight), args.dim / 4, args.eps,
                  static_cast<uint2*>(args.out));
  }
  return Launch(ctx, RmsNormKernel, args.rows, kNormThreads, 0, args.x, args.weight, args.dim,
                args.eps, static_cast<Bf16x*>(args.out));
}

cudaError_t LaunchSwiGlu(const LaunchContext& ctx, const SwiGluArgs& args) {
  const int64_t count = int64_t{args.rows} * args.dim;
  if (args.dim % 8 == 0) {
    return Launch(ctx, SwiGluVectorKernel, ElementwiseBlocks(ctx, count / 8), 256, 0,
                  static_cast<const uint4*>(args.gate), static_cast<const uint4*>(args.up),
                  count / 8, static_cast<uint4*>(args.out));
  }
  return Launch(ctx, SwiGluKernel, ElementwiseBlocks(ctx, count), 256, 0,
                static_cast<const Bf16x*>(args.gate), static_cast<const Bf16x*>(args.up), count,
                static_cast<Bf16x*>(args.out));
}

cudaError_t LaunchAddBias(const LaunchContext& ctx, void* y, bool y_is_float, const float* bias,
                          int32_t rows, int32_t dim) {
  const int64_t count = int64_t{rows} * dim;
  const int blocks = ElementwiseBlocks(ctx, count);
  if (y_is_float)
    return Launch(ctx, AddBiasKernel<float>, blocks, 256, 0, static_cast<float*>(y), bias, count,
                  dim);
  return Launch(ctx, AddBiasKernel<Bf16x>, blocks, 256, 0, static_cast<Bf16x*>(y), bias, count,
                dim);
}

}  // namespace spotd::kernels::cuda
