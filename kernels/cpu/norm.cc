// RmsNorm and SwiGlu.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

template <class D>
HWY_INLINE float SumOfSquares(D d, const float* HWY_RESTRICT x, int dim) {
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  int i = 0;
  for (; i + 2 * LanesOf(d) <= dim; i += 2 * LanesOf(d)) {
    const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + LanesOf(d));
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < dim; ++i) sum += x[i] * x[i];
  return sum;
}

// `out` may be x.
void NormRow(const float* x, const float* HWY_RESTRICT weight, int dim, float eps, float* out) {
  const float mean = SumOfSquares(Wide(), x, dim) / static_cast<float>(dim);
  const float inverse = 1.0f / std::sqrt(mean + eps);
  for (int i = 0; i < dim; ++i) out[i] = x[i] * inverse * weight[i];
}

template <class D>
HWY_INLINE hn::Vec<D> Gate(D d, hn::Vec<D> gate, hn::Vec<D> up) {
  // silu(g) = g / (1 + e^-g), with e^-|g| <= 1 so that nothing overflows.
  const auto e = Exp2(d, hn::Mul(hn::Abs(gate), hn::Set(d, -kLog2E)));
  const auto one = hn::Set(d, 1.0f);
  const auto numerator = hn::IfThenElse(hn::Lt(gate, hn::Zero(d)), e, one);
  return hn::Mul(hn::Mul(gate, up), hn::Div(numerator, hn::Add(one, e)));
}

// out may be gate or up.
void SwiGluRange(const float* gate, const float* up, int64_t begin, int64_t end, float* out) {
  const Wide d;
  int64_t i = begin;
  for (; i + LanesOf(d) <= end; i += LanesOf(d)) {
    hn::StoreU(Gate(d, hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, out + i);
  }
  for (const Narrow one; i < end; ++i) {
    hn::StoreU(Gate(one, hn::LoadU(one, gate + i), hn::LoadU(one, up + i)), one, out + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {
namespace {

HWY_EXPORT(NormRow);
HWY_EXPORT(SwiGluRange);

// Elements of one task: below this, waking a thread costs more than the work.
constexpr int64_t kTaskElements = 16384;

}  // namespace

void RmsNorm(const RmsNormArgs& args, ThreadPool& pool) {
  const int64_t grain = std::max<int64_t>(1, kTaskElements / args.dim);
  pool.ParallelFor(args.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      HWY_DYNAMIC_DISPATCH(NormRow)
      (args.x + r * args.dim, args.weight, args.dim, args.eps,
       static_cast<float*>(args.out) + r * args.dim);
    }
  });
}

void SwiGlu(const SwiGluArgs& args, ThreadPool& pool) {
  const int64_t grain = std::max<int64_t>(1, kTaskElements / args.dim);
  pool.ParallelFor(args.rows, grain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(SwiGluRange)
    (static_cast<const float*>(args.gate), static_cast<const float*>(args.up), begin * args.dim,
     end * args.dim, static_cast<float*>(args.out));
  });
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
