// What the attention kernels share, compiled once per instruction set (Highway): bf16 loads and
// stores, exp2 and log2, and sums over lanes.

#include "hwy/highway.h"
#include "kernels/core/float16.h"

// Per-target include guard.
#if defined(SPOTD_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPOTD_KERNELS_CPU_SIMD_INL_H_
#undef SPOTD_KERNELS_CPU_SIMD_INL_H_
#else
#define SPOTD_KERNELS_CPU_SIMD_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// 16 lanes, or as many as the target has. Tiles of the kernels are 16 wide.
using Wide = hn::CappedTag<float, 16>;
// For dimensions that are not a multiple of the lanes.
using Narrow = hn::CappedTag<float, 1>;

template <class D>
constexpr int LanesOf(D /*d*/) {
  return static_cast<int>(hn::MaxLanes(D()));
}

template <class D>
HWY_INLINE hn::Vec<D> LoadBf16(D d, const Bf16* p) {
  const hn::Rebind<hwy::bfloat16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::bfloat16_t*>(p)));
}

// As ToBf16: to nearest, ties to even, NaN stays NaN.
template <class D>
HWY_INLINE void StoreBf16(D /*d*/, hn::Vec<D> v, Bf16* p) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  const auto chosen = hn::IfThenElse(nan, hn::Or(bits, hn::Set(du, 0x400000)), rounded);
  const auto high = hn::BitCast(di, hn::ShiftRight<16>(chosen));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<uint16_t*>(p));
}

// 2^x for x <= 0, relative error 1e-7. Below the smallest normal float the result is 0, so that no
// denormal slows what follows; -infinity gives 0.
template <class D>
HWY_INLINE hn::Vec<D> Exp2(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto normal = hn::Ge(x, hn::Set(d, -126.0f));
  const auto clamped = hn::Max(x, hn::Set(d, -126.0f));
  // Added to 1.5 * 2^23, x is rounded to the nearest integer, which the low bits then hold.
  const auto magic = hn::Set(d, 0x1.8p23f);
  const auto shifted = hn::Add(clamped, magic);
  const auto f = hn::Sub(clamped, hn::Sub(shifted, magic));  // [-0.5, 0.5]
  auto r = hn::Set(d, 1.54614475e-4f);
  r = hn::MulAdd(r, f, hn::Set(d, 1.33908674e-3f));
  r = hn::MulAdd(r, f, hn::Set(d, 9.61805667e-3f));
  r = hn::MulAdd(r, f, hn::Set(d, 5.5503571e-2f));
  r = hn::MulAdd(r, f, hn::Set(d, 2.40226509e-1f));
  r = hn::MulAdd(r, f, hn::Set(d, 6.93147188e-1f));
  r = hn::MulAdd(r, f, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::IfThenElseZero(normal, hn::BitCast(d, hn::Add(hn::BitCast(di, r), exponent)));
}

// Natural logarithm of x >= 0, error 1e-7 of max(1, |ln x|); log 0 = -infinity. Denormals count as
// 0.
template <class D>
HWY_INLINE hn::Vec<D> Log(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, x);
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)): 0x3f3504f3 are the bits of sqrt(1/2).
  const auto e = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f3504f3)));
  const auto m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(e)));
  // ln m = 2 atanh(t), t = (m - 1) / (m + 1), |t| < 0.172
  const auto one = hn::Set(d, 1.0f);
  const auto t = hn::Div(hn::Sub(m, one), hn::Add(m, one));
  const auto t2 = hn::Mul(t, t);
  auto r = hn::Set(d, 2.0f / 9);
  r = hn::MulAdd(r, t2, hn::Set(d, 2.0f / 7));
  r = hn::MulAdd(r, t2, hn::Set(d, 2.0f / 5));
  r = hn::MulAdd(r, t2, hn::Set(d, 2.0f / 3));
  r = hn::MulAdd(hn::Mul(r, t2), t, hn::Add(t, t));
  r = hn::MulAdd(hn::ConvertTo(d, e), hn::Set(d, kLn2), r);
  return hn::IfThenElse(hn::Lt(x, hn::Set(d, 0x1p-126f)), hn::Set(d, -HUGE_VALF), r);
}

// What a vector is reduced by.
struct SumLanes {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
  template <class D>
  HWY_INLINE float All(D d, hn::Vec<D> v) const {
    return hn::GetLane(hn::SumOfLanes(d, v));
  }
};
struct MaxLanes {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Max(a, b);
  }
  template <class D>
  HWY_INLINE float All(D d, hn::Vec<D> v) const {
    return hn::GetLane(hn::MaxOfLanes(d, v));
  }
};

// Combines the halves of a vector until four lanes are left.
template <class D, class Op>
HWY_INLINE auto FoldToFour(D, hn::Vec<D> v, Op op) {
  if constexpr (LanesOf(D()) <= 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return FoldToFour(half, op(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), op);
  }
}

// out[i] = v_i reduced by `op`, in fewer steps than one by one.
template <class D, class Op>
HWY_INLINE void StoreFour(D d, Op op, hn::Vec<D> v0, hn::Vec<D> v1, hn::Vec<D> v2, hn::Vec<D> v3,
                          float* out) {
  if constexpr (LanesOf(D()) < 4) {
    out[0] = op.All(d, v0);
    out[1] = op.All(d, v1);
    out[2] = op.All(d, v2);
    out[3] = op.All(d, v3);
  } else {
    const hn::Repartition<double, D> d64;
    const auto v01 = op(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1));
    const auto v23 = op(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3));
    const auto a = hn::BitCast(d64, v01), b = hn::BitCast(d64, v23);
    const auto low = hn::BitCast(d, hn::InterleaveLower(d64, a, b));
    const auto high = hn::BitCast(d, hn::InterleaveUpper(d64, a, b));
    hn::StoreU(FoldToFour(d, op(low, high), op), hn::FixedTag<float, 4>(), out);
  }
}

// out[i] = sum over lanes of v_i.
template <class D>
HWY_INLINE void StoreFourSums(D d, hn::Vec<D> v0, hn::Vec<D> v1, hn::Vec<D> v2, hn::Vec<D> v3,
                              float* out) {
  StoreFour(d, SumLanes(), v0, v1, v2, v3, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
