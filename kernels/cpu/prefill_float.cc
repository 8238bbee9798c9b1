// The float form of prefill's inner kernels.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prefill_float.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/cpu/attend-inl.h"
#include "kernels/cpu/prefill_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

// Columns of a block whose sums, kPrefillRows high, fit the registers.
constexpr int kBlockVectors = LanesOf(Wide()) == 16 ? 4 : 2;

void FloatPackQueries(const float* q, int n, float scale, void* out) {
  for (int i = 0; i < n; ++i) static_cast<float*>(out)[i] = q[i] * scale;
}

void FloatPackKeys(const Bf16* k, int tokens, int dim, int begin, void* keys) {
  float* const out = static_cast<float*>(keys) + begin;
  for (int i = 0; i < dim; ++i) {
    for (int t = 0; t < kPackTokens; ++t) {
      out[i * kPrefillTile + t] = t < tokens ? ToFloat(k[t * dim + i]) : 0.0f;
    }
  }
}

void FloatPackValues(const Bf16* v, int tokens, int dim, int begin, void* values) {
  float* const out = static_cast<float*>(values) + begin * dim;
  for (int i = 0; i < tokens * dim; ++i) out[i] = ToFloat(v[i]);
  std::fill(out + tokens * dim, out + kPackTokens * dim, 0.0f);
}

// c[r][0..] (+)= sum_k a[r][k] b[k][0..] for kVectors vectors of columns.
template <int kRows, int kVectors, bool kAdd, class D>
HWY_INLINE void MultiplyBlock(D d, const float* HWY_RESTRICT a, int lda,
                              const float* HWY_RESTRICT b, int ldb, int depth,
                              float* HWY_RESTRICT c, int ldc) {
  constexpr int kLanes = LanesOf(D());
  hn::Vec<D> sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      sum[r][i] = kAdd ? hn::LoadU(d, c + r * ldc + i * kLanes) : hn::Zero(d);
    }
  }
  for (int k = 0; k < depth; ++k) {
    hn::Vec<D> column[kVectors];
    for (int i = 0; i < kVectors; ++i) column[i] = hn::LoadU(d, b + k * ldb + i * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const auto weight = hn::Set(d, a[r * lda + k]);
      for (int i = 0; i < kVectors; ++i) sum[r][i] = hn::MulAdd(weight, column[i], sum[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) hn::StoreU(sum[r][i], d, c + r * ldc + i * kLanes);
  }
}

template <int kRows, bool kAdd>
HWY_INLINE void Multiply(const float* a, int lda, const float* b, int ldb, int depth, int columns,
                         float* c, int ldc) {
  const Wide d;
  constexpr int kLanes = LanesOf(Wide());
  int n = 0;
  for (; n + kBlockVectors * kLanes <= columns; n += kBlockVectors * kLanes) {
    MultiplyBlock<kRows, kBlockVectors, kAdd>(d, a, lda, b + n, ldb, depth, c + n, ldc);
  }
  for (; n + kLanes <= columns; n += kLanes) {
    MultiplyBlock<kRows, 1, kAdd>(d, a, lda, b + n, ldb, depth, c + n, ldc);
  }
  for (; n < columns; ++n) {
    MultiplyBlock<kRows, 1, kAdd>(Narrow(), a, lda, b + n, ldb, depth, c + n, ldc);
  }
}

template <int kRows>
HWY_NOINLINE void AttendRows(const PrefillGroup& g) {
  HWY_ALIGN float p[kRows * kPrefillTile];
  Multiply<kRows, false>(static_cast<const float*>(g.queries), g.dim,
                         static_cast<const float*>(g.keys), kPrefillTile, g.dim, kPrefillTile, p,
                         kPrefillTile);
  for (int r = 0; r < kRows; ++r) {
    const float shrink =
        Exponentiate<kPrefillTile>(p + r * kPrefillTile, g.visible[r], g.max[r], g.sum[r]);
    if (shrink == 1.0f) continue;
    for (int i = 0; i < g.dim; ++i) g.acc[r * g.dim + i] *= shrink;
  }
  Multiply<kRows, true>(p, kPrefillTile, static_cast<const float*>(g.values), g.dim, kPrefillTile,
                        g.dim, g.acc, g.dim);
}

void FloatAttend(const PrefillGroup& g) {
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

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {

HWY_EXPORT(FloatPackQueries);
HWY_EXPORT(FloatPackKeys);
HWY_EXPORT(FloatPackValues);
HWY_EXPORT(FloatAttend);

PrefillKernels FloatPrefillKernels() {
  return {sizeof(float), &HWY_DYNAMIC_DISPATCH(FloatPackQueries),
          &HWY_DYNAMIC_DISPATCH(FloatPackKeys), &HWY_DYNAMIC_DISPATCH(FloatPackValues),
          &HWY_DYNAMIC_DISPATCH(FloatAttend)};
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
