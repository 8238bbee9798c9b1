// The bf16 form of prefill's inner kernels, for processors with AVX512-BF16. Highway 1.0.3 knows no
// bf16 dot product, so this unit is written for the one instruction set, and checked for at run
// time.
#include <cmath>

#include "hwy/base.h"
#include "hwy/targets.h"
#include "kernels/cpu/prefill_kernels.h"

#if defined(__x86_64__)
// GCC 12's own intrinsics start from a variable that they leave undefined on purpose.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4701, ignored "-Wuninitialized")
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace spotd::kernels::cpu {
namespace {

constexpr int kLanes = 16;
constexpr int kBlockVectors = 4;
constexpr int kTileVectors = kPrefillTile / kLanes;

// 2^x for x <= 0 to 7e-6, enough for a weight that is rounded to bf16; 0 for -infinity.
HWY_INLINE __m512 Exp2(__m512 exponent) {
  const __m512 x = _mm512_max_ps(exponent, _mm512_set1_ps(-200.0f));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 r = _mm512_set1_ps(9.66637369e-3f);
  r = _mm512_fmadd_ps(r, f, _mm512_set1_ps(5.58383427e-2f));
  r = _mm512_fmadd_ps(r, f, _mm512_set1_ps(2.40223489e-1f));
  r = _mm512_fmadd_ps(r, f, _mm512_set1_ps(6.93136726e-1f));
  r = _mm512_fmadd_ps(r, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(r, whole);
}

void PackQueries(const float* q, int n, float scale, void* out) {
  for (int i = 0; i < n; ++i) static_cast<Bf16*>(out)[i] = ToBf16(q[i] * scale);
}

// Transposes 16 rows of 16 dwords.
HWY_INLINE void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// A dword is a pair of dimensions; dim is a multiple of 16, so the last 16 pairs may be half a
// vector.
void PackKeys(const Bf16* k, int tokens, int dim, int begin, void* keys) {
  auto* const out = static_cast<uint32_t*>(keys) + begin;
  const int pairs = dim / 2;
  for (int c = 0; c < pairs; c += 16) {
    const int width = pairs - c < 16 ? pairs - c : 16;
    const auto mask = static_cast<__mmask16>((1u << width) - 1);
    __m512i rows[16];
    for (int t = 0; t < kPackTokens; ++t) {
      rows[t] =
          t < tokens ? _mm512_maskz_loadu_epi32(mask, k + t * dim + 2 * c) : _mm512_setzero_si512();
    }
    Transpose16(rows);
    for (int i = 0; i < width; ++i) {
      _mm512_storeu_si512(out + (c + i) * kPrefillTile, rows[i]);
    }
  }
}

HWY_INLINE __m512i LoadWords(const Bf16* p, bool present) {
  if (!present) return _mm512_setzero_si512();
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// A dword is a pair of tokens.
void PackValues(const Bf16* v, int tokens, int dim, int begin, void* values) {
  auto* out = static_cast<uint32_t*>(values) + begin / 2 * dim;
  for (int t = 0; t < kPackTokens; t += 2, out += dim) {
    for (int i = 0; i < dim; i += kLanes) {
      const __m512i even = LoadWords(v + t * dim + i, t < tokens);
      const __m512i odd = LoadWords(v + (t + 1) * dim + i, t + 1 < tokens);
      _mm512_storeu_si512(out + i, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
  }
}

// c[r][0..] (+)= sum_k a[r][k] b[k][0..] over pairs k, for kVectors vectors of columns. lda, ldb in
// pairs.
template <int kRows, int kVectors, bool kAdd>
HWY_INLINE void MultiplyBlock(const uint32_t* a, int lda, const uint32_t* b, int ldb, int depth,
                              float* c, int ldc) {
  __m512 sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      sum[r][i] = kAdd ? _mm512_loadu_ps(c + r * ldc + i * kLanes) : _mm512_setzero_ps();
    }
  }
  for (int k = 0; k < depth; ++k) {
    __m512bh column[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      column[i] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + k * ldb + i * kLanes));
    }
    for (int r = 0; r < kRows; ++r) {
      const auto weight =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[r * lda + k])));
      for (int i = 0; i < kVectors; ++i) {
        sum[r][i] = _mm512_dpbf16_ps(sum[r][i], weight, column[i]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) _mm512_storeu_ps(c + r * ldc + i * kLanes, sum[r][i]);
  }
}

template <int kRows, bool kAdd>
HWY_INLINE void Multiply(const void* a, int lda, const void* b, int ldb, int depth, int columns,
                         float* c, int ldc) {
  const auto* const rows = static_cast<const uint32_t*>(a);
  const auto* const block = static_cast<const uint32_t*>(b);
  int n = 0;
  for (; n + kBlockVectors * kLanes <= columns; n += kBlockVectors * kLanes) {
    MultiplyBlock<kRows, kBlockVectors, kAdd>(rows, lda, block + n, ldb, depth, c + n, ldc);
  }
  for (; n < columns; n += kLanes) {
    MultiplyBlock<kRows, 1, kAdd>(rows, lda, block + n, ldb, depth, c + n, ldc);
  }
}

// Base-2 scores of one row to weights p = 2^(score - max) in bf16, zero beyond `visible`. Returns
// 2^(old max - new max).
HWY_INLINE float Soften(const float* scores, int visible, float* max, float* sum, Bf16* p) {
  __m512 s[kTileVectors];
  __m512 largest = _mm512_set1_ps(*max);
  for (int i = 0; i < kTileVectors; ++i) {
    s[i] = _mm512_loadu_ps(scores + i * kLanes);
    if (visible < (i + 1) * kLanes) {
      const int left = visible - i * kLanes;
      const auto hidden = static_cast<__mmask16>(left > 0 ? 0xffffu << left : 0xffffu);
      s[i] = _mm512_mask_mov_ps(s[i], hidden, _mm512_set1_ps(-HUGE_VALF));
    }
    largest = _mm512_max_ps(largest, s[i]);
  }
  const float new_max = _mm512_reduce_max_ps(largest);
  const __m512 top = _mm512_set1_ps(new_max);
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < kTileVectors; ++i) {
    const __m512 weight = Exp2(_mm512_sub_ps(s[i], top));
    total = _mm512_add_ps(total, weight);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i * kLanes),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight)));
  }
  const float shrink = new_max == *max ? 1.0f : std::exp2(*max - new_max);
  *sum = *sum * shrink + _mm512_reduce_add_ps(total);
  *max = new_max;
  return shrink;
}

template <int kRows>
HWY_NOINLINE void AttendRows(const PrefillGroup& g) {
  alignas(64) float scores[kRows * kPrefillTile];
  alignas(64) Bf16 p[kRows * kPrefillTile];
  Multiply<kRows, false>(g.queries, g.dim / 2, g.keys, kPrefillTile, g.dim / 2, kPrefillTile,
                         scores, kPrefillTile);
  for (int r = 0; r < kRows; ++r) {
    const float shrink =
        Soften(scores + r * kPrefillTile, g.visible[r], g.max + r, g.sum + r, p + r * kPrefillTile);
    if (shrink == 1.0f) continue;
    for (int i = 0; i < g.dim; ++i) g.acc[r * g.dim + i] *= shrink;
  }
  Multiply<kRows, true>(p, kPrefillTile / 2, g.values, g.dim, kPrefillTile / 2, g.dim, g.acc,
                        g.dim);
}

void Attend(const PrefillGroup& g) {
  switch (g.rows) {
    case 1:
      return AttendRows<1>(g);
    case 2:
      return AttendRows<2>(g);
    case 3:
      return AttendRows<3>(g);
    case 4:
      return AttendRows<4>(g);
    case 5:
      return AttendRows<5>(g);
    default:
      return AttendRows<kPrefillRows>(g);
  }
}

}  // namespace
}  // namespace spotd::kernels::cpu
HWY_POP_ATTRIBUTES
HWY_DIAGNOSTICS(pop)

namespace spotd::kernels::cpu {

bool HasBf16Prefill() {
  // Highway's AVX3 stands for F, BW, DQ and VL, and can be switched off with the rest of it.
  return (hwy::SupportedTargets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512bf16") != 0;
}

PrefillKernels Bf16PrefillKernels() {
  return {sizeof(Bf16), PackQueries, PackKeys, PackValues, Attend};
}

}  // namespace spotd::kernels::cpu

#else  // other processors

namespace spotd::kernels::cpu {

bool HasBf16Prefill() {
  return false;
}
PrefillKernels Bf16PrefillKernels() {
  return FloatPrefillKernels();
}

}  // namespace spotd::kernels::cpu

#endif
