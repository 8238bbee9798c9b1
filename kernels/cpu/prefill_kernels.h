// The inner kernels of prefill attention, in two forms: float for every processor, and bf16 dot
// products (AVX512-BF16) at twice the speed where the processor has them.
//
// Attention is computed as two small matrix products per tile of kPrefillTile tokens and group of
// at most kPrefillRows query vectors: scores = Q K^T, then acc += P V. Both read a packed
// right-hand side [depth / d][columns][d], d = 1 for float and 2 for bf16, so that a lane is a
// column.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/float16.h"

namespace spotd::kernels::cpu {

inline constexpr int kPrefillTile = 128;  // tokens
inline constexpr int kPrefillRows = 6;    // query vectors
inline constexpr int kPackTokens = 16;    // tokens packed at a time

// Query vectors against one tile.
struct PrefillGroup {
  int rows;                   // <= kPrefillRows
  int dim;                    // of a head
  const void* queries;        // [rows, dim] packed
  const void* keys;           // [dim / d, kPrefillTile, d]
  const void* values;         // [kPrefillTile / d, dim, d]
  int visible[kPrefillRows];  // tokens of the tile that each query vector sees
  float* max;                 // [rows] in/out, base 2
  float* sum;                 // [rows] in/out
  float* acc;                 // [rows, dim] in/out
};

struct PrefillKernels {
  size_t element_bytes;  // of queries, keys and values when packed
  // out[i] = q[i] * scale for i < n.
  void (*pack_queries)(const float* q, int n, float scale, void* out);
  // Tokens [begin, begin + kPackTokens) of a tile, of which the first `tokens` exist: the others
  // become zero. k, v: [tokens, dim].
  void (*pack_keys)(const Bf16* k, int tokens, int dim, int begin, void* keys);
  void (*pack_values)(const Bf16* v, int tokens, int dim, int begin, void* values);
  void (*attend)(const PrefillGroup& group);
};

// For any head dimension.
PrefillKernels FloatPrefillKernels();

// Whether this processor runs Bf16PrefillKernels.
bool HasBf16Prefill();
// For head dimensions that are a multiple of 16.
PrefillKernels Bf16PrefillKernels();

}  // namespace spotd::kernels::cpu
