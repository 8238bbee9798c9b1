// The inner loops of decode attention: one KV head, up to four query heads that share every load of
// K and V.

#include "kernels/cpu/simd-inl.h"

// Per-target include guard.
#if defined(SPOTD_KERNELS_CPU_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPOTD_KERNELS_CPU_ATTEND_INL_H_
#undef SPOTD_KERNELS_CPU_ATTEND_INL_H_
#else
#define SPOTD_KERNELS_CPU_ATTEND_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

constexpr int kTileTokens = 64;  // scores kept at a time
// Query heads, and vectors of values, whose sums fit the registers: 32 of 16 lanes, or 16 narrower.
constexpr int kHeadChunk = LanesOf(Wide()) == 16 ? 4 : 2;
constexpr int kValueVectors = LanesOf(Wide()) == 16 ? 4 : 2;
constexpr int kLineBytes = 64;

// Asks for what the caller will read next, spread over the loop that runs before. Into the second
// level of cache: the first one allows too few misses at a time to keep up with memory.
HWY_INLINE void PrefetchSpan(const Bf16* next, int begin, int end) {
  if (next == nullptr) return;
  const auto* const bytes = reinterpret_cast<const uint8_t*>(next);
  for (int b = begin * 2; b < end * 2; b += kLineBytes) __builtin_prefetch(bytes + b, 0, 2);
}

// scores[h][t] = q[h] . k[t] for tokens [0, tokens), tokens rounded up to 4. q: [kHeads, dim];
// k: [>= tokens, dim]; scores: [kHeads, kTileTokens]; next: as many elements as k, nullable.
template <int kHeads, class D>
HWY_INLINE void KeyDots(D d, const float* HWY_RESTRICT q, const Bf16* HWY_RESTRICT k, int tokens,
                        int dim, const Bf16* next, float* HWY_RESTRICT scores) {
  for (int t = 0; t < tokens; t += 4, k += 4 * dim) {
    PrefetchSpan(next, t * dim, (t + 4) * dim);
    hn::Vec<D> sum[kHeads][4];
    for (int h = 0; h < kHeads; ++h) {
      for (int i = 0; i < 4; ++i) sum[h][i] = hn::Zero(d);
    }
    for (int c = 0; c < dim; c += LanesOf(d)) {
      hn::Vec<D> key[4];
      for (int i = 0; i < 4; ++i) key[i] = LoadBf16(d, k + i * dim + c);
      for (int h = 0; h < kHeads; ++h) {
        const auto query = hn::LoadU(d, q + h * dim + c);
        for (int i = 0; i < 4; ++i) sum[h][i] = hn::MulAdd(query, key[i], sum[h][i]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      StoreFourSums(d, sum[h][0], sum[h][1], sum[h][2], sum[h][3], scores + h * kTileTokens + t);
    }
  }
}

// acc[h][c..] += sum_t p[h][t] v[t][c..] over kVectors vectors of dimensions.
template <int kHeads, int kVectors, class D>
HWY_INLINE void AddValueColumns(D d, const float* HWY_RESTRICT p, const Bf16* HWY_RESTRICT v,
                                int tokens, int dim, const Bf16* next, float* HWY_RESTRICT acc) {
  constexpr int kLanes = LanesOf(D());
  hn::Vec<D> sum[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < kVectors; ++i) sum[h][i] = hn::LoadU(d, acc + h * dim + i * kLanes);
  }
  for (int t = 0; t < tokens; ++t) {
    PrefetchSpan(next, t * dim, (t + 1) * dim);
    hn::Vec<D> value[kVectors];
    for (int i = 0; i < kVectors; ++i) value[i] = LoadBf16(d, v + t * dim + i * kLanes);
    for (int h = 0; h < kHeads; ++h) {
      const auto weight = hn::Set(d, p[h * kTileTokens + t]);
      for (int i = 0; i < kVectors; ++i) sum[h][i] = hn::MulAdd(weight, value[i], sum[h][i]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < kVectors; ++i) hn::StoreU(sum[h][i], d, acc + h * dim + i * kLanes);
  }
}

// acc[h] += sum_t p[h][t] v[t]. p: [kHeads, kTileTokens]; acc: [kHeads, dim].
template <int kHeads, class D>
HWY_INLINE void AddValues(D d, const float* p, const Bf16* v, int tokens, int dim, const Bf16* next,
                          float* acc) {
  constexpr int kLanes = LanesOf(D());
  int c = 0;
  for (; c + kValueVectors * kLanes <= dim; c += kValueVectors * kLanes) {
    AddValueColumns<kHeads, kValueVectors>(d, p, v + c, tokens, dim, c == 0 ? next : nullptr,
                                           acc + c);
  }
  for (; c < dim; c += kLanes) {
    AddValueColumns<kHeads, 1>(d, p, v + c, tokens, dim, nullptr, acc + c);
  }
}

// Turns the first `tokens` base-2 scores into 2^(score - max) and zeros the rest of the tile; `max`
// rises to cover them. Returns 2^(old max - new max), by which earlier sums are to be multiplied.
template <int kTile = kTileTokens>
HWY_INLINE float Exponentiate(float* HWY_RESTRICT scores, int tokens, float& max, float& sum) {
  const Wide d;
  constexpr int kLanes = LanesOf(Wide());
  for (int t = tokens; t < kTile; ++t) scores[t] = -HUGE_VALF;
  auto largest = hn::Set(d, max);
  for (int t = 0; t < kTile; t += kLanes) {
    largest = hn::Max(largest, hn::LoadU(d, scores + t));
  }
  const float new_max = hn::GetLane(hn::MaxOfLanes(d, largest));
  const auto vmax = hn::Set(d, new_max);
  auto total = hn::Zero(d);
  for (int t = 0; t < kTile; t += kLanes) {
    const auto p = Exp2(d, hn::Sub(hn::LoadU(d, scores + t), vmax));
    hn::StoreU(p, d, scores + t);
    total = hn::Add(total, p);
  }
  const float shrink =
      hn::GetLane(Exp2(Narrow(), hn::Set(Narrow(), max == -HUGE_VALF ? max : max - new_max)));
  sum = sum * shrink + hn::GetLane(hn::SumOfLanes(d, total));
  max = new_max;
  return shrink;
}

// q * scale * log2(e): scores of the result are base-2 logarithms.
HWY_INLINE void ScaleQueries(const float* HWY_RESTRICT q, int n, float scale,
                             float* HWY_RESTRICT out) {
  for (int i = 0; i < n; ++i) out[i] = q[i] * (scale * kLog2E);
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
