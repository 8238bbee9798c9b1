// Quantised weights times int8 activations. See linear_kernels.h for the contract, weight_layout.h
// for the panels.
//
// Per group of 32 columns: an exact int32 dot product per weight row (with AVX-512 VNNI one
// instruction for 16 rows and 4 columns), then one float multiply-add with the two scales, and one
// for the offset where the type has one.

#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_quantized.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "hwy/highway.h"
#include "kernels/cpu/int8-inl.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight_layout.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One lane per weight row. Targets with narrower vectors go over a panel several times.
using int8::HWY_NAMESPACE::DByte;
using int8::HWY_NAMESPACE::DFloat;
using int8::HWY_NAMESPACE::DInt;
using int8::HWY_NAMESPACE::Dot;
using int8::HWY_NAMESPACE::DWord;
using int8::HWY_NAMESPACE::kLanes;
using int8::HWY_NAMESPACE::VByte;
using int8::HWY_NAMESPACE::VFloat;
using int8::HWY_NAMESPACE::VInt;

constexpr int kPasses = kPanelRows / kLanes;

// Moves bit kFrom and up of every byte to bit kTo and up and keeps the bits of `mask`, which kills
// those that cross into the next byte.
template <int kFrom, int kTo>
HWY_INLINE VByte MoveBits(VByte v, VByte mask) {
  const auto words = hn::BitCast(DWord(), v);
  if constexpr (kFrom > kTo) {
    return hn::And(hn::BitCast(DByte(), hn::ShiftRight<kFrom - kTo>(words)), mask);
  } else if constexpr (kFrom < kTo) {
    return hn::And(hn::BitCast(DByte(), hn::ShiftLeft<kTo - kFrom>(words)), mask);
  } else {
    return hn::And(v, mask);
  }
}

// ORs bit c of `line` into bit 4 of chunk c.
template <int kChunk = 0>
HWY_INLINE void AddFifthBits(VByte line, VByte mask, VByte* w) {
  w[kChunk] = hn::Or(w[kChunk], MoveBits<kChunk, 4>(line, mask));
  if constexpr (kChunk + 1 < kChunks) AddFifthBits<kChunk + 1>(line, mask, w);
}

// ORs bits 2i and 2i + 1 of `line` into bits 4 and 5 of chunk i, for 4 chunks.
template <int kChunk = 0>
HWY_INLINE void AddHighPairs(VByte line, VByte mask, VByte* w) {
  w[kChunk] = hn::Or(w[kChunk], MoveBits<2 * kChunk, 4>(line, mask));
  if constexpr (kChunk + 1 < 4) AddHighPairs<kChunk + 1>(line, mask, w);
}

// The 8 chunks of a group, one byte a value. values: the group's first line, at this pass's rows.
template <int kBits>
HWY_INLINE void UnpackGroup(const uint8_t* values, VByte* w) {
  const DByte d;
  if constexpr (kBits == 8) {
    for (int c = 0; c < kChunks; ++c) w[c] = hn::Load(d, values + c * kLineBytes);
    return;
  }
  const VByte nibble = hn::Set(d, 0x0f);
  for (int j = 0; j < 4; ++j) {
    const VByte line = hn::Load(d, values + j * kLineBytes);
    w[2 * j] = hn::And(line, nibble);
    w[2 * j + 1] = MoveBits<4, 0>(line, nibble);
  }
  if constexpr (kBits == 5) {
    AddFifthBits(hn::Load(d, values + 4 * kLineBytes), hn::Set(d, 0x10), w);
  }
  if constexpr (kBits == 6) {
    const VByte mask = hn::Set(d, 0x30);
    AddHighPairs(hn::Load(d, values + 4 * kLineBytes), mask, w);
    AddHighPairs(hn::Load(d, values + 5 * kLineBytes), mask, w + 4);
  }
}

HWY_INLINE VFloat LoadHalves(const uint8_t* p) {
  const hn::Rebind<hwy::float16_t, DFloat> d16;
  return hn::PromoteTo(DFloat(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

template <typename T>
HWY_INLINE VFloat LoadBytes(const uint8_t* p) {
  const hn::Rebind<T, DFloat> d8;
  const auto bytes = hn::LoadU(d8, reinterpret_cast<const T*>(p));
  return hn::ConvertTo(DFloat(), hn::PromoteTo(DInt(), bytes));
}

// The scales of one group for the rows of a pass. `first` is the row that the pass begins with.
struct GroupScales {
  VFloat low;   // of the first 16 columns, or of all
  VFloat high;  // kSuper16 only
  VFloat offset;
};

template <ScaleLayout kScales>
HWY_INLINE GroupScales LoadScales(const uint8_t* record, int g, int first) {
  const VFloat zero = hn::Zero(DFloat());
  const uint8_t* const halves = record + first * 2;
  if constexpr (kScales == ScaleLayout::kHalf) {
    return {LoadHalves(halves + g * 32), zero, zero};
  } else if constexpr (kScales == ScaleLayout::kHalfPair) {
    return {LoadHalves(halves), zero, LoadHalves(halves + 32)};
  } else if constexpr (kScales == ScaleLayout::kSuper32) {
    const uint8_t* const sub = record + 64 + g * 32 + first;
    return {hn::Mul(LoadHalves(halves), LoadBytes<uint8_t>(sub)), zero,
            hn::Neg(hn::Mul(LoadHalves(halves + 32), LoadBytes<uint8_t>(sub + 16)))};
  } else {
    const uint8_t* const sub = record + 32 + g * 32 + first;
    const VFloat d = LoadHalves(halves);
    return {hn::Mul(d, LoadBytes<int8_t>(sub)), hn::Mul(d, LoadBytes<int8_t>(sub + 16)), zero};
  }
}

template <DType kType>
HWY_INLINE VInt DotChunks(VInt sum, const VByte* w, const int8_t* q, int chunks) {
  for (int c = 0; c < chunks; ++c) {
    sum = Dot(sum, w[c], q + 4 * c, ValueBits(kType) == 8);
  }
  return sum;
}

// One group of one activation row, added to that row's sum.
template <DType kType>
HWY_INLINE VFloat AddGroup(VFloat sum, const VByte* w, const GroupScales& scales,
                           const ActivationGroup& x) {
  const DFloat df;
  const DInt di;
  constexpr int kShift = ZeroPointShift(kType);
  const VFloat x_scale = hn::Set(df, x.scale);
  if constexpr (GetScaleLayout(kType) == ScaleLayout::kSuper16) {
    const VInt init_low = hn::Set(di, x.neg_sum_low);
    const VInt init_high = hn::Sub(hn::Set(di, x.neg_sum), init_low);
    const VInt low = DotChunks<kType>(hn::ShiftLeft<kShift>(init_low), w, x.q, 4);
    const VInt high = DotChunks<kType>(hn::ShiftLeft<kShift>(init_high), w + 4, x.q + 16, 4);
    const VFloat scaled = hn::MulAdd(scales.low, hn::ConvertTo(df, low),
                                     hn::Mul(scales.high, hn::ConvertTo(df, high)));
    return hn::MulAdd(scaled, x_scale, sum);
  } else if constexpr (ZeroPoint(kType) != 0) {
    const VInt init = hn::ShiftLeft<kShift>(hn::Set(di, x.neg_sum));
    const VInt dot = DotChunks<kType>(init, w, x.q, kChunks);
    return hn::MulAdd(hn::Mul(scales.low, hn::ConvertTo(df, dot)), x_scale, sum);
  } else {
    const VInt dot = DotChunks<kType>(hn::Zero(di), w, x.q, kChunks);
    sum = hn::MulAdd(scales.offset, hn::Set(df, x.scaled_sum), sum);
    return hn::MulAdd(hn::Mul(scales.low, hn::ConvertTo(df, dot)), x_scale, sum);
  }
}

// One panel times one tile. sums: [kWidth][16]
template <DType kType, int kWidth>
HWY_NOINLINE void MultiplyTile(const uint8_t* panel, int64_t groups, const ActivationGroup* tile,
                               float* HWY_RESTRICT sums) {
  constexpr int kRecordGroups = RecordGroups(kType);
  for (int pass = 0; pass < kPasses; ++pass) {
    const int first = pass * kLanes;
    const uint8_t* record = panel;
    const ActivationGroup* x = tile;
    VFloat sum[kWidth];
    for (int r = 0; r < kWidth; ++r) sum[r] = hn::Zero(DFloat());
    for (int64_t left = groups; left > 0; left -= kRecordGroups, record += RecordBytes(kType)) {
      const uint8_t* values = record + RecordScaleBytes(kType) + first * 4;
      const int count = static_cast<int>(HWY_MIN(left, kRecordGroups));
      for (int g = 0; g < count; ++g, values += GroupValueBytes(kType), x += kWidth) {
        VByte w[kChunks];
        UnpackGroup<ValueBits(kType)>(values, w);
        const GroupScales scales = LoadScales<GetScaleLayout(kType)>(record, g, first);
        for (int r = 0; r < kWidth; ++r) sum[r] = AddGroup<kType>(sum[r], w, scales, x[r]);
      }
    }
    for (int r = 0; r < kWidth; ++r) hn::StoreU(sum[r], DFloat(), sums + r * kPanelRows + first);
  }
}

template <DType kType>
void MultiplyPanels(const PanelProduct& product) {
  const int64_t groups = product.cols / kQuantGroup;
  const size_t panel_bytes = PanelBytes(kType, product.cols);
  const auto* const tiles = static_cast<const ActivationGroup*>(product.tiles);
  HWY_ALIGN float sums[kTileRows * kPanelRows];
  for (int64_t p = product.first_panel; p < product.end_panel; ++p) {
    const uint8_t* const panel = product.panels + static_cast<size_t>(p) * panel_bytes;
    for (int64_t row = 0; row < product.rows; row += kTileRows) {
      const ActivationGroup* const tile = tiles + row * groups;
      const int64_t left = product.rows - row;
      switch (TileWidth(left)) {
        case 1:
          MultiplyTile<kType, 1>(panel, groups, tile, sums);
          break;
        case 2:
          MultiplyTile<kType, 2>(panel, groups, tile, sums);
          break;
        case 4:
          MultiplyTile<kType, 4>(panel, groups, tile, sums);
          break;
        default:
          MultiplyTile<kType, 8>(panel, groups, tile, sums);
          break;
      }
      const auto rows = static_cast<int>(HWY_MIN(left, kTileRows));
      StorePanelSums(product, {sums, p, row, rows});
    }
  }
}

void MultiplyQuantized(const PanelProduct& product) {
  switch (product.type) {
    case DType::kQ8_0:
      return MultiplyPanels<DType::kQ8_0>(product);
    case DType::kQ4_0:
      return MultiplyPanels<DType::kQ4_0>(product);
    case DType::kQ4_1:
      return MultiplyPanels<DType::kQ4_1>(product);
    case DType::kQ5_0:
      return MultiplyPanels<DType::kQ5_0>(product);
    case DType::kQ5_1:
      return MultiplyPanels<DType::kQ5_1>(product);
    case DType::kQ4K:
      return MultiplyPanels<DType::kQ4K>(product);
    case DType::kQ5K:
      return MultiplyPanels<DType::kQ5K>(product);
    case DType::kQ6K:
      return MultiplyPanels<DType::kQ6K>(product);
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      return;
  }
}

// Rounds one group of one row; the sums come later, when the bytes have reached the cache.
HWY_INLINE void QuantizeGroup(const float* x, ActivationGroup* out) {
  out->scale = int8::HWY_NAMESPACE::Round<kQuantGroup>(x, out->q);
}

// The sum of 16 signed bytes.
HWY_INLINE int32_t SumBytes(const int8_t* q) {
  const hn::Full128<uint8_t> d8;
  const auto biased =
      hn::Xor(hn::LoadU(d8, reinterpret_cast<const uint8_t*>(q)), hn::Set(d8, 0x80));
  const auto halves = hn::SumsOf8(biased);
  const hn::Full128<uint64_t> d64;
  return static_cast<int32_t>(hn::GetLane(hn::SumOfLanes(d64, halves))) - 16 * 128;
}

HWY_INLINE void AddSums(ActivationGroup* group) {
  const int32_t low = SumBytes(group->q), high = SumBytes(group->q + 16);
  group->scaled_sum = group->scale * static_cast<float>(low + high);
  group->neg_sum = -(low + high);
  group->neg_sum_low = -low;
}

void Quantize(const TileSource& source, ActivationGroup* tile) {
  const int64_t groups = source.cols / kQuantGroup;
  for (int row = 0; row < source.rows; ++row) {
    const float* const x = source.x + row * source.stride;
    ActivationGroup* const out = tile + row;
    for (int64_t g = 0; g < groups; ++g) QuantizeGroup(x + g * kQuantGroup, out + g * source.width);
    for (int64_t g = 0; g < groups; ++g) AddSums(out + g * source.width);
  }
  for (int row = source.rows; row < source.width; ++row) {
    for (int64_t g = 0; g < groups; ++g) tile[g * source.width + row] = {};
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels {

HWY_EXPORT(MultiplyQuantized);
HWY_EXPORT(Quantize);

void MultiplyQuantizedPanels(const PanelProduct& product) {
  HWY_DYNAMIC_DISPATCH(MultiplyQuantized)(product);
}

void QuantizeTile(const TileSource& source, ActivationGroup* tile) {
  HWY_DYNAMIC_DISPATCH(Quantize)(source, tile);
}

}  // namespace spotd::kernels
#endif  // HWY_ONCE
