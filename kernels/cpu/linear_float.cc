// Float, fp16 and bf16 weights times float activations, all in float. See linear_kernels.h for the
// contract, weight_layout.h for the panels.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_float.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "hwy/highway.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight_layout.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One lane per weight row. Targets with narrower vectors go over each block of columns several
// times.
using DFloat = hn::CappedTag<float, kPanelRows>;
using VFloat = hn::Vec<DFloat>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DFloat()));
constexpr int kPasses = kPanelRows / kLanes;
constexpr int64_t kColumnBlock = 256;  // even

HWY_INLINE VFloat LoadWeights(const float* p) {
  return hn::Load(DFloat(), p);
}

template <typename T>
HWY_INLINE VFloat LoadWeights(const T* p) {
  const hn::Rebind<T, DFloat> d16;
  return hn::PromoteTo(DFloat(), hn::Load(d16, p));
}

// Columns [begin, end) of the rows of one pass. Even and odd columns have a sum each, which halves
// the wait for the adder. tile: its first row of kWidth. sums: [2][kRows][16], added to.
template <typename T, int kRows, int kWidth>
HWY_INLINE void AddColumns(const T* panel, const float* tile, int64_t begin, int64_t end,
                           float* HWY_RESTRICT sums) {
  const DFloat d;
  VFloat even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) {
    even[r] = hn::Load(d, sums + r * kPanelRows);
    odd[r] = hn::Load(d, sums + (kRows + r) * kPanelRows);
  }
  int64_t c = begin;
  for (; c + 2 <= end; c += 2) {
    const T* const p = panel + c * kPanelRows;
    const VFloat w_even = LoadWeights(p), w_odd = LoadWeights(p + kPanelRows);
    const float* const x = tile + c * kWidth;
    for (int r = 0; r < kRows; ++r) even[r] = hn::MulAdd(w_even, hn::Set(d, x[r]), even[r]);
    for (int r = 0; r < kRows; ++r) odd[r] = hn::MulAdd(w_odd, hn::Set(d, x[kWidth + r]), odd[r]);
  }
  if (c < end) {
    const VFloat w = LoadWeights(panel + c * kPanelRows);
    for (int r = 0; r < kRows; ++r) {
      even[r] = hn::MulAdd(w, hn::Set(d, tile[c * kWidth + r]), even[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    hn::Store(even[r], d, sums + r * kPanelRows);
    hn::Store(odd[r], d, sums + (kRows + r) * kPanelRows);
  }
}

// One panel times kRows rows of a tile. sums: [2][kRows][16], of which the first half is the
// result.
template <typename T, int kRows, int kWidth>
HWY_NOINLINE void MultiplyRows(const T* panel, int64_t cols, const float* tile,
                               float* HWY_RESTRICT sums) {
  constexpr int kSums = kRows * kPanelRows;
  for (int i = 0; i < 2 * kSums; ++i) sums[i] = 0;
  const int64_t block = kPasses == 1 ? cols : kColumnBlock;
  for (int64_t begin = 0; begin < cols; begin += block) {
    for (int pass = 0; pass < kPasses; ++pass) {
      const int first = pass * kLanes;
      AddColumns<T, kRows, kWidth>(panel + first, tile, begin, HWY_MIN(cols, begin + block),
                                   sums + first);
    }
  }
  for (int i = 0; i < kSums; ++i) sums[i] += sums[kSums + i];
}

// One panel times one tile. sums: [2][kWidth][16], of which the first half is the result.
template <typename T, int kWidth>
void MultiplyTile(const T* panel, int64_t cols, const float* tile, float* sums) {
  // Two sums for each of 8 rows do not fit the 16 registers that narrower targets have.
  constexpr int kRows = kPasses > 1 && kWidth > 4 ? 4 : kWidth;
  for (int row = 0; row < kWidth; row += kRows) {
    MultiplyRows<T, kRows, kWidth>(panel, cols, tile + row, sums + row * kPanelRows);
  }
}

template <typename T>
void MultiplyPanels(const PanelProduct& product) {
  const size_t panel_bytes = PanelBytes(product.type, product.cols);
  const auto* const tiles = static_cast<const float*>(product.tiles);
  HWY_ALIGN float sums[2 * kTileRows * kPanelRows];
  for (int64_t p = product.first_panel; p < product.end_panel; ++p) {
    const auto* const panel =
        reinterpret_cast<const T*>(product.panels + static_cast<size_t>(p) * panel_bytes);
    for (int64_t row = 0; row < product.rows; row += kTileRows) {
      const float* const tile = tiles + row * product.cols;
      const int64_t left = product.rows - row;
      switch (TileWidth(left)) {
        case 1:
          MultiplyTile<T, 1>(panel, product.cols, tile, sums);
          break;
        case 2:
          MultiplyTile<T, 2>(panel, product.cols, tile, sums);
          break;
        case 4:
          MultiplyTile<T, 4>(panel, product.cols, tile, sums);
          break;
        default:
          MultiplyTile<T, 8>(panel, product.cols, tile, sums);
          break;
      }
      const auto rows = static_cast<int>(HWY_MIN(left, kTileRows));
      StorePanelSums(product, {sums, p, row, rows});
    }
  }
}

void MultiplyFloat(const PanelProduct& product) {
  switch (product.type) {
    case DType::kF32:
      return MultiplyPanels<float>(product);
    case DType::kF16:
      return MultiplyPanels<hwy::float16_t>(product);
    case DType::kBf16:
      return MultiplyPanels<hwy::bfloat16_t>(product);
    default:
      return;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels {

HWY_EXPORT(MultiplyFloat);

void MultiplyFloatPanels(const PanelProduct& product) {
  HWY_DYNAMIC_DISPATCH(MultiplyFloat)(product);
}

void InterleaveTile(const TileSource& source, float* tile) {
  for (int row = 0; row < source.width; ++row) {
    const float* const x = source.x + row * source.stride;
    for (int64_t c = 0; c < source.cols; ++c) {
      tile[c * source.width + row] = row < source.rows ? x[c] : 0;
    }
  }
}

void StorePanelSums(const PanelProduct& product, const PanelSums& sums) {
  const int64_t first = sums.panel * kPanelRows;
  const int64_t count = HWY_MIN(product.weight_rows - first, kPanelRows);
  for (int r = 0; r < sums.rows; ++r) {
    const float* const sum = sums.sums + r * kPanelRows;
    float* const y = product.y + (sums.first_row + r) * product.weight_rows + first;
    for (int64_t i = 0; i < count; ++i) {
      const float with_bias = product.bias == nullptr ? sum[i] : sum[i] + product.bias[first + i];
      y[i] = product.accumulate ? y[i] + with_bias : with_bias;
    }
  }
}

}  // namespace spotd::kernels
#endif  // HWY_ONCE
