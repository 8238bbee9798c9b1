// Causal prefill attention over the paged cache with mma.sync: any device from sm_80. Tiles of 64
// rows x 64 tokens, K and V through shared memory in two stages, scores and weights in registers.
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attend_prefill_sm90.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill.cuh"

namespace spotd::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = kWarps * 16;
constexpr int kTokens = 64;

// A [64, kDim] bf16 tile, its 16-byte columns XORed with the row so that eight rows of a column hit
// eight banks.
template <int kDim>
struct Tile {
  Bf16x at[64 * kDim];
  __device__ Bf16x* Chunk(int row, int chunk) { return at + row * kDim + (chunk ^ (row & 7)) * 8; }
};

template <int kDim>
struct Space {
  Tile<kDim> q;
  Tile<kDim> k[2];
  Tile<kDim> v[2];
};

__device__ inline void LoadMatrix4(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}
__device__ inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}

template <int kDim>
__device__ inline void LoadQuery(const PrefillAttendArgs& args, const RowTile& rows, int head,
                                 Tile<kDim>& q) {
  for (int i = threadIdx.x; i < kRows * kDim / 8; i += kThreads) {
    const int row = i / (kDim / 8);
    const int chunk = i % (kDim / 8);
    const bool inside = row < rows.rows;
    const int64_t at =
        (int64_t{rows.first_row + (inside ? row : 0)} * args.q_heads + head) * kDim + chunk * 8;
    CopyAsync16(q.Chunk(row, chunk), static_cast<const Bf16x*>(args.q) + at, inside);
  }
}

// Tokens [first, first + 64) of K or V (which lies `offset` elements after K); zeros from `tokens`
// on.
template <int kDim>
__device__ inline void LoadTokens(const PrefillAttendArgs& args, int seq, int kv_head, int first,
                                  int tokens, int64_t offset, Tile<kDim>& tile) {
  const KvLayer& layer = args.layer;
  for (int i = threadIdx.x; i < kTokens * kDim / 8; i += kThreads) {
    const int row = i / (kDim / 8);
    const int chunk = i % (kDim / 8);
    const int token = first + row;
    const bool inside = token < tokens;
    const int block = inside ? token / layer.block_tokens : 0;
    const Bf16x* from = KeyRows(layer, PhysicalBlock(args.batch, seq, block), kv_head) + offset +
                        token % layer.block_tokens * kDim + chunk * 8;
    CopyAsync16(tile.Chunk(row, chunk), from, inside);
  }
}

template <int kDim>
struct WarpState {
  float max[2];  // rows g, g + 8; log2 domain
  float sum[2];  // this lane's part
  float out[kDim / 8][4];
};

// scores[n] = q k^T for tokens 8n .. 8n + 7.
template <int kDim>
__device__ inline void Scores(Tile<kDim>& q, Tile<kDim>& k, float (&scores)[kTokens / 8][4]) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[4];
    LoadMatrix4(a, q.Chunk(warp * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < kTokens / 16; ++n) {
      uint32_t b[4];  // tokens 16n .. + 7 (k low, k high), then 16n + 8 ..
      LoadMatrix4(b, k.Chunk(n * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
      MmaBf16(scores[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
      MmaBf16(scores[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
    }
  }
}

// Masks tokens after each row's own, then the online softmax: scores become weights, earlier sums
// are rescaled.
template <int kDim>
__device__ inline void Softmax(float (&scores)[kTokens / 8][4], float scale, int first, int token,
                               bool masked, WarpState<kDim>& state) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool visible = !masked || first + n * 8 + 2 * t + i % 2 <= token + i / 2 * 8;
      scores[n][i] = visible ? scores[n][i] * scale : -INFINITY;
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float max = state.max[r];
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n)
      max = fmaxf(max, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
    const float base = max == -INFINITY ? 0.0f : max;
    const float keep = Exp2(state.max[r] - base);
    state.max[r] = max;
    state.sum[r] *= keep;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      state.out[n][2 * r] *= keep;
      state.out[n][2 * r + 1] *= keep;
    }
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; ++i) {
        scores[n][i] = Exp2(scores[n][i] - base);
        state.sum[r] += scores[n][i];
      }
    }
  }
}

template <int kDim>
__device__ inline void AddValues(const float (&weights)[kTokens / 8][4], Tile<kDim>& v,
                                 WarpState<kDim>& state) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kTokens / 16; ++step) {
    const float(&low)[4] = weights[2 * step];
    const float(&high)[4] = weights[2 * step + 1];
    const uint32_t a[4] = {PackBf16(low[0], low[1]), PackBf16(low[2], low[3]),
                           PackBf16(high[0], high[1]), PackBf16(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];  // dims 16n .. + 7 (tokens low, high), then 16n + 8 ..
      LoadMatrix4Transposed(b, v.Chunk(step * 16 + lane % 16, n * 2 + lane / 16));
      MmaBf16(state.out[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
      MmaBf16(state.out[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
    }
  }
}

template <int kDim>
__device__ inline void WriteRows(const PrefillAttendArgs& args, const RowTile& rows, int head,
                                 WarpState<kDim>& state) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(kFullMask, sum, 1);
    sum += __shfl_xor_sync(kFullMask, sum, 2);
    const int local = static_cast<int>(threadIdx.x / 32) * 16 + g + 8 * r;
    if (local >= rows.rows) continue;
    const int64_t at = int64_t{rows.first_row + local} * args.q_heads + head;
    const float inverse = 1.0f / sum;
    auto* to = static_cast<Bf16x*>(args.out) + at * kDim + 2 * t;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to + n * 8) =
          PackBf16(state.out[n][2 * r] * inverse, state.out[n][2 * r + 1] * inverse);
    }
    if (t == 0 && args.lse != nullptr) args.lse[at] = (state.max[r] + __log2f(sum)) * kLn2;
  }
}

template <int kDim>
__global__ __launch_bounds__(kThreads) void PrefillKernel(
    const __grid_constant__ PrefillAttendArgs args, int tiles) {
  extern __shared__ float4 shared[];
  auto& space = *reinterpret_cast<Space<kDim>*>(shared);
  AllowNext();
  WaitForPrevious();
  // The longest tiles first: they are the last of each sequence.
  const RowTile rows = FindRowTile(args.batch, tiles - 1 - static_cast<int>(blockIdx.y), kRows);
  if (rows.seq < 0) return;
  const int head = blockIdx.x;
  const int kv_head = head / (args.q_heads / args.layer.kv_heads);
  const int tokens = rows.first_token + rows.rows;  // visible to the last row
  const int steps = (tokens + kTokens - 1) / kTokens;
  const int64_t value_offset = ValueOffset(args.layer);
  const auto load = [&](int step) {
    LoadTokens<kDim>(args, rows.seq, kv_head, step * kTokens, tokens, 0, space.k[step % 2]);
    LoadTokens<kDim>(args, rows.seq, kv_head, step * kTokens, tokens, value_offset,
                     space.v[step % 2]);
  };
  LoadQuery<kDim>(args, rows, head, space.q);
  load(0);
  CommitCopies();

  const int own = rows.first_token + static_cast<int>(threadIdx.x / 32) * 16 +
                  static_cast<int>(threadIdx.x % 32 / 4);
  WarpState<kDim> state = {};
  state.max[0] = state.max[1] = -INFINITY;
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) load(step + 1);
    CommitCopies();
    WaitCopies<1>();
    __syncthreads();
    float scores[kTokens / 8][4] = {};
    Scores<kDim>(space.q, space.k[step % 2], scores);
    const bool masked = (step + 1) * kTokens > rows.first_token;
    Softmax<kDim>(scores, args.scale * kLog2E, step * kTokens, own, masked, state);
    AddValues<kDim>(scores, space.v[step % 2], state);
    __syncthreads();
  }
  WriteRows<kDim>(args, rows, head, state);
}

template <int kDim>
cudaError_t LaunchDim(const LaunchContext& ctx, const PrefillAttendArgs& args) {
  constexpr int kSharedBytes = sizeof(Space<kDim>);
  const cudaError_t error = cudaFuncSetAttribute(
      PrefillKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const int tiles = MaxRowTiles(args.batch, kRows);
  return Launch(ctx, PrefillKernel<kDim>, dim3(args.q_heads, tiles), kThreads, kSharedBytes, args,
                tiles);
}

}  // namespace

cudaError_t LaunchPrefillAttend(const LaunchContext& ctx, const PrefillAttendArgs& args) {
  if (args.layer.block_tokens % 16 != 0) return LaunchPrefillAttendGeneric(ctx, args);
  if (PrefillSm90Takes(ctx, args)) return LaunchPrefillSm90(ctx, args);
  switch (args.layer.head_dim) {
    case 64:
      return LaunchDim<64>(ctx, args);
    case 128:
      return LaunchDim<128>(ctx, args);
    case 256:
      return LaunchDim<256>(ctx, args);
    default:
      return LaunchPrefillAttendGeneric(ctx, args);
  }
}

}  // namespace spotd::kernels::cuda
