// Products with numbers rounded to int8, compiled once per instruction set (Highway). Units that
// include this define HWY_WANT_AVX3_DL before any Highway header.

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

// Per-target include guard.
#if defined(SPOTD_KERNELS_CPU_INT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPOTD_KERNELS_CPU_INT8_INL_H_
#undef SPOTD_KERNELS_CPU_INT8_INL_H_
#else
#define SPOTD_KERNELS_CPU_INT8_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::int8 {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 16 lanes, or as many as the target has; four bytes to a lane.
using DFloat = hn::CappedTag<float, 16>;
using DInt = hn::RebindToSigned<DFloat>;
using DByte = hn::Repartition<uint8_t, DInt>;
using DWord = hn::Repartition<uint16_t, DInt>;
using VFloat = hn::Vec<DFloat>;
using VInt = hn::Vec<DInt>;
using VByte = hn::Vec<DByte>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DFloat()));

// Dot: adds to each lane of `sum` the products of its four unsigned bytes of w with the four
// numbers at q. `wide`: w may exceed 63, so that a sum of two products may not fit int16.
#if HWY_TARGET == HWY_AVX3_DL
// Highway's target lacks the compiler's switch for avx512vnni, hence not the intrinsic; and the
// processor broadcasts the four bytes while it loads them.
HWY_INLINE VInt Dot(VInt sum, VByte w, const int8_t* q, bool /*wide*/) {
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(sum.raw)
      : "v"(w.raw), "m"(*reinterpret_cast<const int8_t(*)[4]>(q)));
  return sum;
}
#else

// Pairs of int16 products, added.
HWY_INLINE VInt AddPairs(hn::Vec<hn::Repartition<int16_t, DInt> > a,
                         hn::Vec<hn::Repartition<int16_t, DInt> > b) {
#if HWY_TARGET == HWY_AVX3
  return VInt{_mm512_madd_epi16(a.raw, b.raw)};
#elif HWY_TARGET == HWY_AVX2
  return VInt{_mm256_madd_epi16(a.raw, b.raw)};
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  return VInt{_mm_madd_epi16(a.raw, b.raw)};
#else
  const DInt di;
  const auto low = [&](auto v) HWY_ATTR {
    return hn::ShiftRight<16>(hn::ShiftLeft<16>(hn::BitCast(di, v)));
  };
  const auto high = [&](auto v) HWY_ATTR { return hn::ShiftRight<16>(hn::BitCast(di, v)); };
  return hn::Add(hn::Mul(low(a), low(b)), hn::Mul(high(a), high(b)));
#endif
}

HWY_INLINE VInt Dot(VInt sum, VByte w, const int8_t* q, bool wide) {
  int32_t chunk;
  std::memcpy(&chunk, q, sizeof(chunk));
  const VInt x = hn::Set(DInt(), chunk);
  const hn::Repartition<int16_t, DInt> d16;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || \
    HWY_TARGET == HWY_SSSE3
  if (!wide) {
    using V16 = hn::Vec<decltype(d16)>;
#if HWY_TARGET == HWY_AVX3
    const V16 pairs{_mm512_maddubs_epi16(w.raw, x.raw)};
#elif HWY_TARGET == HWY_AVX2
    const V16 pairs{_mm256_maddubs_epi16(w.raw, x.raw)};
#else
    const V16 pairs{_mm_maddubs_epi16(w.raw, x.raw)};
#endif
    return hn::Add(sum, AddPairs(pairs, hn::Set(d16, 1)));
  }
#else
  (void)wide;
#endif
  const DWord du16;
  const auto w16 = hn::BitCast(du16, w);
  const auto x16 = hn::BitCast(d16, x);
  const auto w_even = hn::BitCast(d16, hn::And(w16, hn::Set(du16, 0xff)));
  const auto w_odd = hn::BitCast(d16, hn::ShiftRight<8>(w16));
  const auto x_even = hn::ShiftRight<8>(hn::ShiftLeft<8>(x16));
  const auto x_odd = hn::ShiftRight<8>(x16);
  return hn::Add(sum, hn::Add(AddPairs(w_even, x_even), AddPairs(w_odd, x_odd)));
}
#endif

// Rounds kCount numbers: x[i] is about the result times q[i].
template <int kCount>
HWY_INLINE float Round(const float* x, int8_t* q) {
  const DFloat df;
  const hn::Rebind<int8_t, DFloat> d8;
  constexpr int kSteps = kCount / kLanes;
  VFloat values[kSteps];
  VFloat largest = hn::Zero(df);
  for (int i = 0; i < kSteps; ++i) {
    values[i] = hn::LoadU(df, x + i * kLanes);
    largest = hn::Max(largest, hn::Abs(values[i]));
  }
  const float max = hn::GetLane(hn::MaxOfLanes(df, largest));
  const VFloat inverse = hn::Set(df, max == 0 ? 0 : 127 / max);
  for (int i = 0; i < kSteps; ++i) {
    const VInt rounded = hn::NearestInt(hn::Mul(values[i], inverse));
    hn::StoreU(hn::DemoteTo(d8, rounded), d8, q + i * kLanes);
  }
  return max * (1.0f / 127);
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::int8
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
