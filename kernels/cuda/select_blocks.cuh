// How a row's scores come to shared memory, and how its chosen blocks leave it: a bit per block,
// then the list. Internal to select.cu.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/select_state.cuh"

namespace spotd::kernels::cuda {
namespace {

// Blocks of a tile that a thread owns of a row of `blocks`, and floats between two threads' scores.
SPOTD_HOST_DEVICE inline int OwnedBlocks(int blocks, int tile_owned) {
  return blocks > kMaxHeld ? tile_owned : (blocks + 4 * kThreads - 1) / (4 * kThreads) * 4;
}
SPOTD_HOST_DEVICE inline int OwnedStride(int owned) {
  return owned / 4 % 2 == 0 ? owned + 4 : owned;
}

// Starts to bring tile `tile` of the row to `to` in shared memory.
__device__ inline void StartFetch(const RowProblem& p, int tile, float* to) {
  const int32_t first = tile * kThreads * p.owned;
  const int32_t count = min(p.plan.blocks - first, kThreads * p.owned);
  const float* from = p.lse + first;
  const int32_t whole = reinterpret_cast<uintptr_t>(from) % 16 == 0 ? count / 4 * 4 : 0;
#pragma unroll 8
  for (int32_t i = 4 * static_cast<int32_t>(threadIdx.x); i < whole; i += 4 * kThreads)
    CopyAsync16(to + p.PlaceOf(i), from + i, true);
#pragma unroll 8
  for (int32_t i = whole + static_cast<int32_t>(threadIdx.x); i < count; i += kThreads)
    to[p.PlaceOf(i)] = __ldcg(from + i);
  CommitCopies();
}

// Calls see(i, score) for this thread's blocks 32 * word + i of the tile in shared memory; those
// beyond what it owns are anything.
template <typename See>
__device__ inline void ForWord(const RowProblem& p, int word, const See& see) {
  const auto* scores = reinterpret_cast<const float4*>(p.tile + threadIdx.x * p.stride + 32 * word);
#pragma unroll
  for (int i = 0; i < 32; i += 4) {
    if (32 * word + i >= p.owned) break;
    const float4 x = scores[i / 4];
    see(i, x.x);
    see(i + 1, x.y);
    see(i + 2, x.z);
    see(i + 3, x.w);
  }
}

// Sets the bits of this thread's blocks of a tile in shared memory that are chosen whatever the
// candidates' ranks, and lists the candidates: the blocks of the boundary bin.
__device__ inline void MarkTile(const RowProblem& p, int tile, Shared& shared) {
  const int bin = shared.boundary_bin;
  const Owned own = OwnedOf(p, tile);
  // Distances below `better` are taken, those from there to `worse` are candidates.
  const float better = bin > 0 ? static_cast<float>(bin) : -INFINITY;
  const float worse = bin < 0 ? -INFINITY : static_cast<float>(bin + 1);
  for (int word = 0; 32 * word < p.owned; ++word) {
    uint32_t taken = 0;
    uint32_t within = 0;
    ForWord(p, word, [&](int i, float x) {
      const float distance = p.Distance(x);
      if (distance < better) taken |= 1u << i;
      if (distance < worse) within |= 1u << i;
    });
    const uint32_t residual = RangeBits(word, own.low, own.high);
    taken &= residual;
    within = bin == kBins - 1 ? residual : within & residual;
    for (uint32_t left = within & ~taken; left != 0; left &= left - 1) {
      const int32_t b = own.first + 32 * word + __ffs(static_cast<int>(left)) - 1;
      const int at = atomicAdd(&shared.num_candidates, 1);
      if (at >= kMaxCandidates) continue;
      const float x = p.tile[p.PlaceOf(b - tile * kThreads * p.owned)];
      shared.candidates[at] = {0, FloatBits(x), b};
    }
    p.chosen[(tile * 2 + word) * kThreads + threadIdx.x] =
        taken | RangeBits(word, 0, own.low) | RangeBits(word, own.high, own.end);
  }
}

// The same for all tiles. Those of a row that is not held take turns in two halves of the memory.
__device__ inline void MarkBlocks(RowProblem& p, Shared& shared) {
  if (p.held()) {
    MarkTile(p, 0, shared);
    __syncthreads();
    return;
  }
  float* base = p.tile;
  const auto half_of = [base, &p](int tile) { return base + tile % 2 * p.stride * kThreads; };
  StartFetch(p, 0, half_of(0));
  for (int tile = 0; tile < p.tiles; ++tile) {
    p.tile = half_of(tile);
    if (tile + 1 < p.tiles) {
      StartFetch(p, tile + 1, half_of(tile + 1));
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    __syncthreads();
    MarkTile(p, tile, shared);
    __syncthreads();
  }
  p.tile = base;
}

// Where scores do not matter: the reserved blocks, or all.
__device__ inline void MarkUnscored(const RowProblem& p, bool everything) {
  for (int tile = 0; tile < p.tiles; ++tile) {
    const Owned own = OwnedOf(p, tile);
    for (int word = 0; 32 * word < p.owned; ++word) {
      p.chosen[(tile * 2 + word) * kThreads + threadIdx.x] =
          everything ? RangeBits(word, 0, own.end)
                     : RangeBits(word, 0, own.low) | RangeBits(word, own.high, own.end);
    }
  }
}

__device__ inline void Choose(const RowProblem& p, int32_t b) {
  const int owner = b / p.owned;
  const int bit = b % p.owned;
  uint32_t* word = p.chosen + (owner / kThreads * 2 + bit / 32) * kThreads + owner % kThreads;
  atomicOr(word, 1u << bit % 32);
}

// Writes the chosen blocks in ascending order, by way of shared memory, where the scores are no
// longer needed; returns their number to every thread.
__device__ inline uint32_t WriteList(const RowProblem& p, Shared& shared, int32_t* selected) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  auto* list = reinterpret_cast<int32_t*>(p.tile);
  uint32_t written = 0;
  for (int tile = 0; tile < p.tiles; ++tile) {
    const uint32_t* words = p.chosen + tile * 2 * kThreads + threadIdx.x;
    const uint32_t word[2] = {words[0], p.owned > 32 ? words[kThreads] : 0};
    const uint32_t mine = __popc(word[0]) + __popc(word[1]);
    uint32_t at = mine;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint32_t below = __shfl_up_sync(kFullMask, at, offset);
      if (lane >= offset) at += below;
    }
    uint32_t* of_warp = shared.taken_of_warp[tile % 2];
    if (lane == 31) of_warp[warp] = at;
    __syncthreads();
    at -= mine;
    uint32_t of_tile = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += of_warp[w];
      of_tile += of_warp[w];
    }
    const int32_t first = (tile * kThreads + static_cast<int32_t>(threadIdx.x)) * p.owned;
    for (int half = 0; half < 2; ++half) {
      for (uint32_t left = word[half]; left != 0; left &= left - 1)
        list[at++] = first + 32 * half + __ffs(static_cast<int>(left)) - 1;
    }
    __syncthreads();
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < of_tile; i += kThreads) selected[written + i] = list[i];
    written += of_tile;
    if (tile + 1 < p.tiles) __syncthreads();
  }
  return written;
}

}  // namespace
}  // namespace spotd::kernels::cuda
