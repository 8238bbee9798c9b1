// Matrix products of selector training on the tensor cores: fp32 or bf16 operands rounded to TF32,
// fp32 sums. A block computes a 64 x 64 tile with four warps of 32 x 32; the next slice of the
// summed index is on its way from global memory while the current one is multiplied.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/distill.h"

namespace spotd::kernels::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kDepth = 32;
constexpr int kThreads = 128;
constexpr int kVectors = kTile * kDepth / 4 / kThreads;  // of each operand, a thread and slice
// Row lengths in shared memory that put a fragment's 32 elements into 32 banks.
constexpr int kDepthPad = kDepth + 4;
constexpr int kTilePad = kTile + 8;
constexpr int kSharedFloats = kTile * kDepthPad;
static_assert(kDepth * kTilePad == kSharedFloats);

__device__ float Tf32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
}

__device__ float4 Load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ float4 Load4(const Bf16x* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  return {LowBf16(bits.x), HighBf16(bits.x), LowBf16(bits.y), HighBf16(bits.y)};
}
__device__ float Load1(const float* p) {
  return *p;
}
__device__ float Load1(const Bf16x* p) {
  return __bfloat162float(*p);
}

// One operand's slices: `outer` indexes m or n, `inner` the summed index. kInnerContiguous: element
// (outer, inner) lies at outer * ld + inner, else at inner * ld + outer.
template <typename T, bool kInnerContiguous>
struct Operand {
  const T* matrix;
  int ld;
  int outer_begin;
  int outer_end;
  int inner_end;
  bool vectors;  // rows start on the boundaries that Load4 needs

  __device__ void Place(int i, int* outer, int* inner) const {
    const int index = threadIdx.x + i * kThreads;
    if (kInnerContiguous) {
      *outer = index / (kDepth / 4);
      *inner = index % (kDepth / 4) * 4;
    } else {
      *outer = index % (kTile / 4) * 4;
      *inner = index / (kTile / 4);
    }
  }

  __device__ void Load(int inner_begin, float4 (&out)[kVectors]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      int outer;
      int inner;
      Place(i, &outer, &inner);
      outer += outer_begin;
      inner += inner_begin;
      const T* p =
          matrix + (kInnerContiguous ? int64_t{outer} * ld + inner : int64_t{inner} * ld + outer);
      const int room = kInnerContiguous ? inner_end - inner : outer_end - outer;
      const bool inside = kInnerContiguous ? outer < outer_end : inner < inner_end;
      out[i] = {0, 0, 0, 0};
      if (!inside || room <= 0) continue;
      if (vectors && room >= 4) {
        out[i] = Load4(p);
        continue;
      }
      out[i].x = Load1(p);
      if (room > 1) out[i].y = Load1(p + 1);
      if (room > 2) out[i].z = Load1(p + 2);
      if (room > 3) out[i].w = Load1(p + 3);
    }
  }

  __device__ void Store(const float4 (&values)[kVectors], float* shared) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      int outer;
      int inner;
      Place(i, &outer, &inner);
      const float4 v = {Tf32(values[i].x), Tf32(values[i].y), Tf32(values[i].z), Tf32(values[i].w)};
      float* to =
          shared + (kInnerContiguous ? outer * kDepthPad + inner : inner * kTilePad + outer);
      *reinterpret_cast<float4*>(to) = v;
    }
  }

  __device__ static uint32_t At(const float* shared, int outer, int inner) {
    return __float_as_uint(
        shared[kInnerContiguous ? outer * kDepthPad + inner : inner * kTilePad + outer]);
  }
};

// d += a b, m16n8k8: a0 = (g, t), a1 = (g + 8, t), a2 = (g, t + 4), a3 = (g + 8, t + 4); b0 = (t,
// g), b1 = (t + 4, g); d as in MmaBf16.
__device__ void MmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// One slice: this warp's 32 x 32 outputs, rows from `row`, columns from `column` of the tile.
template <typename A, typename B>
__device__ void MultiplySlice(const float* a_shared, const float* b_shared, int row, int column,
                              float (&sums)[2][4][4]) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int k = 0; k < kDepth; k += 8) {
    uint32_t a[2][4];
    uint32_t b[4][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        a[i][part] = A::At(a_shared, row + 16 * i + g + part % 2 * 8, k + t + part / 2 * 4);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        b[j][part] = B::At(b_shared, column + 8 * j + g, k + t + part * 4);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) MmaTf32(sums[i][j], a[i], b[j]);
    }
  }
}

template <typename TA, typename TB, bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(kThreads) GemmKernel(GemmProblem p) {
  __shared__ float4 shared[2 * kSharedFloats / 4];
  float* a_shared = reinterpret_cast<float*>(shared);
  float* b_shared = a_shared + kSharedFloats;
  using A = Operand<TA, !kTransposeA>;
  using B = Operand<TB, kTransposeB>;
  const int problem = blockIdx.z / p.splits;
  const int slices = (p.k + kDepth - 1) / kDepth;
  const int slices_each = (slices + p.splits - 1) / p.splits;
  const int k_begin = blockIdx.z % p.splits * slices_each * kDepth;
  const int k_end = min(p.k, k_begin + slices_each * kDepth);
  const A a = {static_cast<const TA*>(p.a) + problem * p.stride_a,
               p.lda,
               static_cast<int>(blockIdx.y) * kTile,
               p.m,
               k_end,
               p.a_vectors};
  const B b = {static_cast<const TB*>(p.b) + problem * p.stride_b,
               p.ldb,
               static_cast<int>(blockIdx.x) * kTile,
               p.n,
               k_end,
               p.b_vectors};
  const int warp = threadIdx.x / 32;
  const int row = warp / 2 * 32;
  const int column = warp % 2 * 32;
  float sums[2][4][4] = {};
  float4 a_next[kVectors];
  float4 b_next[kVectors];
  a.Load(k_begin, a_next);
  b.Load(k_begin, b_next);
  for (int k = k_begin; k < k_end; k += kDepth) {
    a.Store(a_next, a_shared);
    b.Store(b_next, b_shared);
    __syncthreads();
    a.Load(k + kDepth, a_next);
    b.Load(k + kDepth, b_next);
    MultiplySlice<A, B>(a_shared, b_shared, row, column, sums);
    __syncthreads();
  }
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  float* c = p.c + blockIdx.z * p.stride_c;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = a.outer_begin + row + 16 * i + g + e / 2 * 8;
        const int n = b.outer_begin + column + 8 * j + 2 * t + e % 2;
        if (r < p.m && n < p.n) c[int64_t{r} * p.ldc + n] = sums[i][j][e];
      }
    }
  }
}

__global__ void AddPartialsKernel(const float* partials, int parts, int64_t count, float* out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0;
  for (int part = 0; part < parts; ++part) sum += partials[part * count + i];
  out[i] += sum;
}

template <typename TA, typename TB, bool kTransposeA, bool kTransposeB>
cudaError_t LaunchTyped(cudaStream_t stream, GemmProblem p) {
  const auto aligned = [](const void* data, size_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0;
  };
  p.a_vectors = p.lda % 4 == 0 && p.stride_a % 4 == 0 && aligned(p.a, 4 * sizeof(TA));
  p.b_vectors = p.ldb % 4 == 0 && p.stride_b % 4 == 0 && aligned(p.b, 4 * sizeof(TB));
  const dim3 grid((p.n + kTile - 1) / kTile, (p.m + kTile - 1) / kTile, p.batch * p.splits);
  GemmKernel<TA, TB, kTransposeA, kTransposeB><<<grid, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

template <typename TA, typename TB>
cudaError_t LaunchOriented(cudaStream_t stream, const GemmProblem& p) {
  if (p.transpose_a && p.transpose_b) return cudaErrorInvalidValue;
  if (p.transpose_a) return LaunchTyped<TA, TB, true, false>(stream, p);
  if (p.transpose_b) return LaunchTyped<TA, TB, false, true>(stream, p);
  return LaunchTyped<TA, TB, false, false>(stream, p);
}

}  // namespace

cudaError_t LaunchDistillGemm(cudaStream_t stream, const GemmProblem& p) {
  if (p.a_is_bf16) return LaunchOriented<Bf16x, float>(stream, p);
  if (p.b_is_bf16) return LaunchOriented<float, Bf16x>(stream, p);
  return LaunchOriented<float, float>(stream, p);
}

cudaError_t LaunchAddPartials(cudaStream_t stream, const float* partials, int parts, int64_t count,
                              float* out) {
  constexpr int kSumThreads = 256;
  const auto blocks = static_cast<unsigned>((count + kSumThreads - 1) / kSumThreads);
  AddPartialsKernel<<<blocks, kSumThreads, 0, stream>>>(partials, parts, count, out);
  return cudaGetLastError();
}

int SplitsFor(int m, int n, int k) {
  // Enough blocks for the largest GPUs, but no split shorter than four slices.
  constexpr int kBlocksWanted = 264;
  const int tiles = ((m + kTile - 1) / kTile) * ((n + kTile - 1) / kTile);
  const int most = (k + 4 * kDepth - 1) / (4 * kDepth);
  const int wanted = (kBlocksWanted + tiles - 1) / tiles;
  return wanted < most ? wanted : most;
}

}  // namespace spotd::kernels::cuda
