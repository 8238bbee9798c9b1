// The distilled selector's block masses. A lane is a token (selector_layout.h), so that the ReLU
// and the mix of the heads need no sum over lanes; only a block's log-sum-exp does.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selector_score.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/selector_layout.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/paged.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

constexpr int kLanes = LanesOf(Wide());
constexpr int kHeadChunk = 4;
constexpr int kMaxBlockTokens = 64;
constexpr int kMaxGroups = 8;  // of one pass over the keys

// Signed values of the 16 codes: int4 as they are, fp4 doubled.
alignas(16) constexpr int8_t kInt4Values[16] = {-8, -7, -6, -5, -4, -3, -2, -1,
                                                0,  1,  2,  3,  4,  5,  6,  7};
alignas(16) constexpr int8_t kFp4Values[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                               0, -1, -2, -3, -4, -6, -8, -12};

alignas(64) constexpr float kInt4Floats[16] = {-8, -7, -6, -5, -4, -3, -2, -1,
                                               0,  1,  2,  3,  4,  5,  6,  7};
alignas(64) constexpr float kFp4Floats[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                              0, -1, -2, -3, -4, -6, -8, -12};

using VWide = hn::Vec<Wide>;

// Code bytes of kLanes tokens as two vectors of values: low nibbles, high nibbles. With 16 lanes a
// vector holds all values of a code and one shuffle looks them up as floats; else they are looked
// up as bytes and converted.
template <class D>
HWY_INLINE void Unpack(D d, const uint8_t* codes, const int8_t* bytes, const float* floats,
                       hn::Vec<D>& low, hn::Vec<D>& high) {
  const hn::Rebind<uint8_t, D> d8;
  const hn::Rebind<int8_t, D> di8;
  const hn::RebindToSigned<D> di;
  const auto both = hn::LoadU(d8, codes);
  if constexpr (LanesOf(D()) == 16) {
    const auto table = hn::Load(d, floats);
    const auto wide = hn::PromoteTo(di, both);
    const auto low_codes = hn::And(wide, hn::Set(di, 15));
    low = hn::TableLookupLanes(table, hn::IndicesFromVec(d, low_codes));
    high = hn::TableLookupLanes(table, hn::IndicesFromVec(d, hn::ShiftRight<4>(wide)));
  } else {
    const auto table = hn::Load(hn::CappedTag<int8_t, 16>(), bytes);
    const auto values = [&](auto nibbles) HWY_ATTR {
      const auto looked_up = hn::TableLookupBytes(table, hn::BitCast(di8, nibbles));
      return hn::ConvertTo(d, hn::PromoteTo(di, looked_up));
    };
    low = values(hn::And(both, hn::Set(d8, 15)));
    high = values(hn::And(hn::ShiftRight<4>(both), hn::Set(d8, 15)));
  }
}

HWY_INLINE VWide LoadScales(const Fp16* scales) {
  const hn::Rebind<hwy::float16_t, Wide> d16;
  return hn::PromoteTo(Wide(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(scales)));
}

// e4m3 without a sign, halved: fp4 values come doubled.
HWY_INLINE VWide LoadScales(const uint8_t* scales) {
  const Wide d;
  const hn::Rebind<uint8_t, Wide> d8;
  const hn::RebindToUnsigned<Wide> du;
  const hn::RebindToSigned<Wide> di;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d8, scales));
  const auto normal =
      hn::BitCast(d, hn::Add(hn::ShiftLeft<20>(bits), hn::Set(du, uint32_t{119} << 23)));
  const auto subnormal = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, bits)), hn::Set(d, 0x1p-10f));
  return hn::IfThenElse(hn::RebindMask(d, hn::Lt(bits, hn::Set(du, 8))), subnormal, normal);
}

// dots[h] = q[h] . key of kLanes tokens, the first of which is `lane` of the tile.
// q: [kHeadChunk, dim].
template <typename Scale, int kGroup>
HWY_INLINE void QuantisedDots(const float* q, const std::byte* tile, int dim, int lane,
                              const int8_t* bytes, const float* floats, VWide (&dots)[kHeadChunk]) {
  const Wide d;
  const auto* codes = reinterpret_cast<const uint8_t*>(tile) + lane;
  const auto* const scales = reinterpret_cast<const Scale*>(tile + dim / 2 * kSelectorTile) + lane;
  for (VWide& dot : dots) dot = hn::Zero(d);
  for (int g = 0; g < dim / kGroup; ++g) {
    VWide sum[kHeadChunk];
    for (VWide& s : sum) s = hn::Zero(d);
    for (int i = 0; i < kGroup / 2; ++i, codes += kSelectorTile) {
      VWide low, high;
      Unpack(d, codes, bytes, floats, low, high);
      const float* const at = q + g * kGroup + i;
      for (int h = 0; h < kHeadChunk; ++h) {
        sum[h] = hn::MulAdd(hn::Set(d, at[h * dim]), low, sum[h]);
        sum[h] = hn::MulAdd(hn::Set(d, at[h * dim + kGroup / 2]), high, sum[h]);
      }
    }
    const VWide scale = LoadScales(scales + g * kSelectorTile);
    for (int h = 0; h < kHeadChunk; ++h) dots[h] = hn::MulAdd(sum[h], scale, dots[h]);
  }
}

HWY_INLINE void Bf16Dots(const float* q, const std::byte* tile, int dim, int lane,
                         VWide (&dots)[kHeadChunk]) {
  const Wide d;
  const auto* const keys = reinterpret_cast<const Bf16*>(tile) + lane;
  for (VWide& dot : dots) dot = hn::Zero(d);
  for (int i = 0; i < dim; ++i) {
    const VWide key = LoadBf16(d, keys + i * kSelectorTile);
    for (int h = 0; h < kHeadChunk; ++h) {
      dots[h] = hn::MulAdd(hn::Set(d, q[h * dim + i]), key, dots[h]);
    }
  }
}

template <SelectorKeyFormat kFormat>
HWY_INLINE void Dots(const float* q, const std::byte* tile, int dim, int lane,
                     VWide (&dots)[kHeadChunk]) {
  if constexpr (kFormat == SelectorKeyFormat::kBf16) {
    Bf16Dots(q, tile, dim, lane, dots);
  } else if constexpr (kFormat == SelectorKeyFormat::kInt4) {
    QuantisedDots<Fp16, kInt4Group>(q, tile, dim, lane, kInt4Values, kInt4Floats, dots);
  } else {
    QuantisedDots<uint8_t, kFp4Group>(q, tile, dim, lane, kFp4Values, kFp4Floats, dots);
  }
}

// Base-2 scores of one block, [groups, kMaxBlockTokens]. q, w: [heads, dim], [groups, heads], heads
// a multiple of kHeadChunk.
template <SelectorKeyFormat kFormat>
HWY_INLINE void ScoreBlock(const float* q, const float* w, int heads, int groups,
                           const std::byte* block, int tokens, int dim,
                           float* HWY_RESTRICT scores) {
  const Wide d;
  for (int t = 0; t < tokens; t += kLanes) {
    const std::byte* const tile =
        block + static_cast<size_t>(t / kSelectorTile) * SelectorTileBytes(kFormat, dim);
    for (int h = 0; h < heads; h += kHeadChunk) {
      VWide dots[kHeadChunk];
      Dots<kFormat>(q + h * dim, tile, dim, t % kSelectorTile, dots);
      for (int g = 0; g < groups; ++g) {
        float* const sum = scores + g * kMaxBlockTokens + t;
        VWide score = h == 0 ? hn::Zero(d) : hn::LoadU(d, sum);
        for (int i = 0; i < kHeadChunk; ++i) {
          score =
              hn::MulAdd(hn::Set(d, w[g * heads + h + i]), hn::Max(dots[i], hn::Zero(d)), score);
        }
        hn::StoreU(score, d, sum);
      }
    }
  }
}

// max and sum 2^(score - max) of scores [0, tokens).
HWY_INLINE void Reduce(float* HWY_RESTRICT scores, int tokens, float* max, float* sum) {
  const Wide d;
  const int padded = (tokens + kLanes - 1) / kLanes * kLanes;
  for (int t = tokens; t < padded; ++t) scores[t] = -HUGE_VALF;
  auto largest = hn::LoadU(d, scores);
  for (int t = kLanes; t < padded; t += kLanes) {
    largest = hn::Max(largest, hn::LoadU(d, scores + t));
  }
  const auto top = hn::MaxOfLanes(d, largest);
  auto total = hn::Zero(d);
  for (int t = 0; t < padded; t += kLanes) {
    total = hn::Add(total, Exp2(d, hn::Sub(hn::LoadU(d, scores + t), top)));
  }
  *max = hn::GetLane(top);
  *sum = hn::GetLane(hn::SumOfLanes(d, total));
}

// lse = ln2 * max + ln sum, for n blocks, n a multiple of kLanes in memory.
HWY_INLINE void ToLse(const float* max, const float* sum, int n, float* lse) {
  const Wide d;
  HWY_ALIGN float out[kLanes];
  for (int i = 0; i < n; i += kLanes) {
    const auto log = Log(d, hn::LoadU(d, sum + i));
    hn::Store(hn::MulAdd(hn::LoadU(d, max + i), hn::Set(d, kLn2), log), d, out);
    std::copy(out, out + std::min(kLanes, n - i), lse + i);
  }
}

constexpr int kChunkBlocks = 64;
constexpr int kAhead = 2;  // blocks

HWY_INLINE void PrefetchBlock(const KvLayer& layer, int32_t physical) {
  const std::byte* const block = BlockSelectorKeys(layer, physical);
  const auto bytes = static_cast<size_t>(BlockSelectorKeys(layer, physical + 1) - block);
  for (size_t b = 0; b < bytes; b += 64) hwy::Prefetch(block + b);
}

template <SelectorKeyFormat kFormat>
HWY_NOINLINE void ScoreBlocks(const KvLayer& layer, const RowScores& row, int begin, int end) {
  HWY_ALIGN float scores[kMaxGroups * kMaxBlockTokens];
  HWY_ALIGN float max[kMaxGroups * kChunkBlocks];
  HWY_ALIGN float sum[kMaxGroups * kChunkBlocks];
  for (int first = 0; first < row.groups; first += kMaxGroups) {
    const int groups = std::min(kMaxGroups, row.groups - first);
    for (int b = begin; b < end; ++b) {
      const std::byte* const block = BlockSelectorKeys(layer, row.table[b]);
      if (b + kAhead < end) PrefetchBlock(layer, row.table[b + kAhead]);
      const int tokens = std::min(layer.block_tokens, row.kv_len - b * layer.block_tokens);
      ScoreBlock<kFormat>(row.q, row.w + first * row.heads, row.heads, groups, block, tokens,
                          layer.selector_dim, scores);
      for (int g = 0; g < groups; ++g) {
        const int at = g * kChunkBlocks + b - begin;
        Reduce(scores + g * kMaxBlockTokens, tokens, max + at, sum + at);
      }
    }
    for (int g = 0; g < groups; ++g) {
      ToLse(max + g * kChunkBlocks, sum + g * kChunkBlocks, end - begin,
            row.lse + (first + g) * row.lse_stride + begin);
    }
  }
}

// The log-sum-exps of blocks [begin, end), at most kChunkBlocks of them, of a row.
void ScoreChunk(const KvLayer& layer, const RowScores& row, int begin, int end) {
  switch (layer.selector_format) {
    case SelectorKeyFormat::kBf16:
      return ScoreBlocks<SelectorKeyFormat::kBf16>(layer, row, begin, end);
    case SelectorKeyFormat::kInt4:
      return ScoreBlocks<SelectorKeyFormat::kInt4>(layer, row, begin, end);
    case SelectorKeyFormat::kFp4:
      return ScoreBlocks<SelectorKeyFormat::kFp4>(layer, row, begin, end);
    case SelectorKeyFormat::kNone:
      return;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {
namespace {

HWY_EXPORT(ScoreChunk);

constexpr int32_t kChunk = 64;  // blocks of one task
constexpr int32_t kHeadPadding = 4;

// Queries and mixing weights of a row, with heads of weight 0 up to a multiple of kHeadPadding, in
// every group. The weights hold 1 / sqrt(d_s) and the change to base 2.
void PrepareQueries(const SelectorScoreArgs& args, int64_t row, int heads, float* q, float* w) {
  const int64_t dim = args.layer.selector_dim;
  const float* const from = static_cast<const float*>(args.q) + row * args.heads * dim;
  std::copy(from, from + args.heads * dim, q);
  std::fill(q + args.heads * dim, q + heads * dim, 0.0f);
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(dim));
  const float* mixing = static_cast<const float*>(args.w) + row * args.groups * args.heads;
  for (int g = 0; g < args.groups; ++g, mixing += args.heads, w += heads) {
    for (int h = 0; h < heads; ++h) w[h] = h < args.heads ? mixing[h] * scale : 0.0f;
  }
}

}  // namespace

void SelectorScore(const SelectorScoreArgs& args, ThreadPool& pool, SelectorScratch& scratch) {
  const SequenceBatch& batch = args.batch;
  const int heads = (args.heads + kHeadPadding - 1) / kHeadPadding * kHeadPadding;
  const size_t row_floats =
      static_cast<size_t>(heads) * static_cast<size_t>(args.layer.selector_dim + args.groups);
  Grow(scratch.queries, static_cast<size_t>(batch.num_rows) * row_floats);
  const auto queries = [&](int64_t row) {
    return scratch.queries.data() + static_cast<size_t>(row) * row_floats;
  };
  const auto weights = [&](int64_t row) { return queries(row) + heads * args.layer.selector_dim; };
  for (int64_t row = 0; row < batch.num_rows; ++row) {
    PrepareQueries(args, row, heads, queries(row), weights(row));
  }
  const int64_t chunks =
      (NumBlocks(batch.max_kv_len, args.layer.block_tokens) + kChunk - 1) / kChunk;
  pool.ParallelFor(batch.num_rows * chunks, 1, [&](int64_t task, int64_t, int) {
    const int64_t row = task / chunks;
    const auto begin = static_cast<int32_t>(task % chunks) * kChunk;
    const int32_t blocks = NumBlocks(batch.kv_len[row], args.layer.block_tokens);
    if (begin >= blocks) return;
    const RowScores scores = {batch.block_tables + row * batch.table_stride,
                              queries(row),
                              weights(row),
                              heads,
                              args.groups,
                              batch.kv_len[row],
                              args.block_lse + row * args.groups * args.lse_stride,
                              args.lse_stride};
    HWY_DYNAMIC_DISPATCH(ScoreChunk)
    (args.layer, scores, begin, std::min(begin + kChunk, blocks));
  });
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
