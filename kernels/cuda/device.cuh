// What every CUDA kernel here shares: 16-byte loads, warp reductions, tensor-core instructions, and
// the handshake of programmatic dependent launch. Device code only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace spotd::kernels::cuda {

using Bf16x = __nv_bfloat16;

inline constexpr unsigned kFullMask = 0xffffffffu;
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// The handshake of dependent launch (no-ops before sm_90). A kernel calls AllowNext first: once all
// its thread blocks have begun, those of the next kernel may take what room is left and do what
// does not depend on anyone. Every thread block that reads or writes more than that calls
// WaitForPrevious, which returns when the kernel before has completed; as that one waited too, so
// have all before it. At least one thread block of a kernel must wait, or the chain would break.
//
// Before it waits, a kernel may read only what no kernel of the same step writes: weights, a step's
// inputs (tokens, positions, lengths, block tables, rules), and cache entries older than the step.
__device__ inline void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void AllowNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Loads of data read once: past L1, so that reused data stays there. Plain (not .nc) because under
// dependent launch the producer may have been running when this kernel began.
__device__ inline uint4 LoadStream16(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline uint2 LoadStream8(const void* p) {
  uint2 v;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p));
  return v;
}
// For weights. No kernel writes them, but .nc would let ptxas move what is asked for before
// WaitForPrevious behind it, and it does.
__device__ inline uint4 LoadWeights16(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

__device__ inline float WarpSum(float v) {
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(kFullMask, v, offset);
  return v;
}
__device__ inline float WarpMax(float v) {
  for (int offset = 16; offset > 0; offset /= 2)
    v = fmaxf(v, __shfl_xor_sync(kFullMask, v, offset));
  return v;
}

// Two floats as a bf16 pair, the first in the low half.
__device__ inline uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline float LowBf16(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float HighBf16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// exp2 of a non-positive argument; -inf gives 0.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float SwiGluOf(float gate, float up) {
  return gate / (1.0f + __expf(-gate)) * up;
}

// d += a b. Fragments of mma.m16n8k16, with g = lane / 4 and t = lane % 4: a0 = (row g, k 2t..), a1
// = (row g + 8, k 2t..), a2 = (row g, k 2t + 8..), a3 = (row g + 8, k 2t + 8..); b0 = (k 2t..,
// column g), b1 = (k 2t + 8.., column g); d0, d1 = (row g, columns 2t, 2t + 1), d2, d3 = (row g +
// 8, the same).
__device__ inline void MmaBf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// d = a b over unsigned a and signed b bytes, k = 32: as above with four bytes at k 4t.. (a0, a1,
// b0) and 16 + 4t.. .
__device__ inline void MmaU8S8(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%10, %10, %10, %10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(0));
}

// Sum or maximum over the thread block, returned to every thread. `scratch` holds 33 floats and may
// be reused after a
// __syncthreads.
template <bool kMax>
__device__ inline float BlockReduce(float v, float* scratch) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int warps = (blockDim.x + 31) / 32;
  v = kMax ? WarpMax(v) : WarpSum(v);
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  if (warp == 0) {
    float total = lane < warps ? scratch[lane] : (kMax ? -INFINITY : 0.0f);
    total = kMax ? WarpMax(total) : WarpSum(total);
    if (lane == 0) scratch[32] = total;
  }
  __syncthreads();
  const float result = scratch[32];
  __syncthreads();
  return result;
}

}  // namespace spotd::kernels::cuda
