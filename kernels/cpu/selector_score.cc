// The distilled selector's block masses. A lane is a token (selector_layout.h), so that the ReLU
// and the mix of the heads need no sum over lanes; only a block's log-sum-exp does.
//
// Quantised keys meet queries rounded to int8, one scale for each group of the key's: an exact
// int32 dot product of 16 tokens and 4 dimensions is one instruction with AVX-512 VNNI. A step
// of the rounding is a sixteenth or less of the keys' own of four bits. Keys of bf16 meet the
// queries in float.

#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selector_score.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/int8-inl.h"
#include "kernels/cpu/selector_layout.h"
#include "kernels/cpu/selector_query.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/paged.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

using int8::HWY_NAMESPACE::DByte;
using int8::HWY_NAMESPACE::DInt;
using int8::HWY_NAMESPACE::VByte;
using int8::HWY_NAMESPACE::VInt;
using VWide = hn::Vec<Wide>;

constexpr int kLanes = LanesOf(Wide());
constexpr int kHeadPadding = 4;
// Heads that share a load of a key: as many sums as the registers hold.
constexpr int kMostHeads = kLanes == 16 ? 8 : 4;
constexpr int kMaxBlockTokens = 64;
constexpr int kMaxGroups = 8;  // of one pass over the keys
constexpr int kBatch = 4;      // blocks whose scores are reduced together
constexpr int kGroupScores = kBatch * kMaxBlockTokens;

// Values of the fp4 codes, doubled, and 12 higher to have no sign.
alignas(16) constexpr uint8_t kFp4Values[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                                12, 11, 10, 9,  8,  6,  4,  0};

// What the dot products of each format's codes need.
struct Int4 {
  using Scale = Fp16;
  static constexpr int kGroup = kInt4Group;
  static constexpr int kZero = 8;
  static HWY_INLINE VByte Values(VByte codes) { return codes; }
};
struct Fp4 {
  using Scale = uint8_t;
  static constexpr int kGroup = kFp4Group;
  static constexpr int kZero = 12;
  static HWY_INLINE VByte Values(VByte codes) {
    return hn::TableLookupBytes(hn::LoadDup128(DByte(), kFp4Values), codes);
  }
};

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

// The codes of one group of kLanes tokens, as values less their zero: each vector holds four
// dimensions, those of the low nibbles first.
template <typename Format>
HWY_INLINE void Unpack(const uint8_t* codes, VByte (&values)[Format::kGroup / kCodeWordBytes]) {
  const DByte d;
  constexpr int kLines = Format::kGroup / 2 / kCodeWordBytes;
  const VByte nibble = hn::Set(d, 15);
  for (int i = 0; i < kLines; ++i) {
    const VByte both = hn::LoadU(d, codes + i * kSelectorTile * kCodeWordBytes);
    const auto shifted = hn::ShiftRight<4>(hn::BitCast(int8::HWY_NAMESPACE::DWord(), both));
    values[i] = Format::Values(hn::And(both, nibble));
    values[kLines + i] = Format::Values(hn::And(hn::BitCast(d, shifted), nibble));
  }
}

// dots[h] = q[h] . key of kLanes tokens, the first of which is `lane` of the tile. q: the first of
// kHeads heads in [dim / kGroup, heads].
template <typename Format, int kHeads>
HWY_INLINE void QuantisedDots(const RoundedQuery<Format::kGroup>* q, int heads,
                              const std::byte* tile, int dim, int lane, VWide (&dots)[kHeads]) {
  const Wide d;
  constexpr int kWords = Format::kGroup / kCodeWordBytes;
  const auto* codes = reinterpret_cast<const uint8_t*>(tile) + lane * kCodeWordBytes;
  const auto* scales =
      reinterpret_cast<const typename Format::Scale*>(tile + dim / 2 * kSelectorTile) + lane;
  for (VWide& dot : dots) dot = hn::Zero(d);
  for (int g = 0; g < dim / Format::kGroup; ++g, q += heads) {
    VByte values[kWords];
    Unpack<Format>(codes, values);
    codes += Format::kGroup / 2 * kSelectorTile;
    VInt sums[kHeads];
    for (int h = 0; h < kHeads; ++h) sums[h] = hn::Set(DInt(), q[h].start);
    for (int i = 0; i < kWords; ++i) {
      for (int h = 0; h < kHeads; ++h) {
        sums[h] =
            int8::HWY_NAMESPACE::Dot(sums[h], values[i], q[h].values + i * kCodeWordBytes, false);
      }
    }
    const VWide key_scale = LoadScales(scales + g * kSelectorTile);
    for (int h = 0; h < kHeads; ++h) {
      const VWide sum = hn::Mul(hn::ConvertTo(d, sums[h]), hn::Set(d, q[h].scale));
      dots[h] = hn::MulAdd(sum, key_scale, dots[h]);
    }
  }
}

template <int kHeads>
HWY_INLINE void Bf16Dots(const float* q, const std::byte* tile, int dim, int lane,
                         VWide (&dots)[kHeads]) {
  const Wide d;
  const auto* const keys = reinterpret_cast<const Bf16*>(tile) + lane;
  for (VWide& dot : dots) dot = hn::Zero(d);
  for (int i = 0; i < dim; ++i) {
    const VWide key = LoadBf16(d, keys + i * kSelectorTile);
    for (int h = 0; h < kHeads; ++h) {
      dots[h] = hn::MulAdd(hn::Set(d, q[h * dim + i]), key, dots[h]);
    }
  }
}

// The same for heads [head, head + kHeads) of a row.
template <SelectorKeyFormat kFormat, int kHeads>
HWY_INLINE void Dots(const RowScores& row, int head, const std::byte* tile, int dim, int lane,
                     VWide (&dots)[kHeads]) {
  if constexpr (kFormat == SelectorKeyFormat::kBf16) {
    Bf16Dots(reinterpret_cast<const float*>(row.q) + head * dim, tile, dim, lane, dots);
  } else {
    using Format = std::conditional_t<kFormat == SelectorKeyFormat::kInt4, Int4, Fp4>;
    const auto* const q = reinterpret_cast<const RoundedQuery<Format::kGroup>*>(row.q);
    QuantisedDots<Format>(q + head, row.heads, tile, dim, lane, dots);
  }
}

// Adds the shares of kHeads heads, from `head` on, to the scores of kLanes tokens. w: [groups,
// heads]; scores: [groups], kGroupScores apart.
template <SelectorKeyFormat kFormat, int kHeads>
HWY_INLINE void AddHeads(const RowScores& row, const float* w, int groups, int head,
                         const std::byte* tile, int dim, int lane, float* HWY_RESTRICT scores) {
  const Wide d;
  VWide dots[kHeads];
  Dots<kFormat>(row, head, tile, dim, lane, dots);
  for (VWide& dot : dots) dot = hn::Max(dot, hn::Zero(d));
  for (int g = 0; g < groups; ++g) {
    float* const sum = scores + g * kGroupScores;
    const float* const mix = w + g * row.heads + head;
    VWide score = head == 0 ? hn::Zero(d) : hn::LoadU(d, sum);
    for (int h = 0; h < kHeads; ++h) score = hn::MulAdd(hn::Set(d, mix[h]), dots[h], score);
    hn::StoreU(score, d, sum);
  }
}

// Base-2 scores of one block, -infinity from `tokens` up to `padded`, a multiple of kLanes.
// Arguments as of AddHeads.
template <SelectorKeyFormat kFormat>
HWY_INLINE void ScoreBlock(const RowScores& row, const float* w, int groups, const std::byte* block,
                           int tokens, int padded, int dim, float* HWY_RESTRICT scores) {
  for (int t = 0; t < tokens; t += kLanes) {
    const int lane = t % kSelectorTile;
    const std::byte* const tile =
        block + static_cast<size_t>(t / kSelectorTile) * SelectorTileBytes(kFormat, dim);
    int head = 0;
    for (; head + kMostHeads <= row.heads; head += kMostHeads) {
      AddHeads<kFormat, kMostHeads>(row, w, groups, head, tile, dim, lane, scores + t);
    }
    for (; head < row.heads; head += kHeadPadding) {
      AddHeads<kFormat, kHeadPadding>(row, w, groups, head, tile, dim, lane, scores + t);
    }
  }
  for (int g = 0; g < groups; ++g, scores += kGroupScores) {
    for (int t = tokens; t < padded; ++t) scores[t] = -HUGE_VALF;
  }
}

// max and sum 2^(score - max) of each of kBatch blocks. scores: [kBatch, kMaxBlockTokens], of which
// the first `padded` are read.
HWY_INLINE void Reduce(const float* HWY_RESTRICT scores, int padded, float* max, float* sum) {
  const Wide d;
  VWide v[kBatch];
  for (int i = 0; i < kBatch; ++i) v[i] = hn::LoadU(d, scores + i * kMaxBlockTokens);
  for (int t = kLanes; t < padded; t += kLanes) {
    for (int i = 0; i < kBatch; ++i) {
      v[i] = hn::Max(v[i], hn::LoadU(d, scores + i * kMaxBlockTokens + t));
    }
  }
  StoreFour(d, MaxLanes(), v[0], v[1], v[2], v[3], max);
  for (VWide& total : v) total = hn::Zero(d);
  for (int t = 0; t < padded; t += kLanes) {
    for (int i = 0; i < kBatch; ++i) {
      const VWide score = hn::LoadU(d, scores + i * kMaxBlockTokens + t);
      v[i] = hn::Add(v[i], Exp2(d, hn::Sub(score, hn::Set(d, max[i]))));
    }
  }
  StoreFour(d, SumLanes(), v[0], v[1], v[2], v[3], sum);
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
constexpr int kAhead = 4;  // blocks

HWY_INLINE void PrefetchBlock(const KvLayer& layer, int32_t physical) {
  const std::byte* const block = BlockSelectorKeys(layer, physical);
  const auto bytes = static_cast<size_t>(BlockSelectorKeys(layer, physical + 1) - block);
  for (size_t b = 0; b < bytes; b += 64) hwy::Prefetch(block + b);
}

template <SelectorKeyFormat kFormat>
HWY_NOINLINE void ScoreBlocks(const KvLayer& layer, const RowScores& row, int begin, int end) {
  HWY_ALIGN float scores[kMaxGroups * kGroupScores] = {};
  HWY_ALIGN float max[kMaxGroups * kChunkBlocks];
  HWY_ALIGN float sum[kMaxGroups * kChunkBlocks];
  const int padded = (layer.block_tokens + kLanes - 1) / kLanes * kLanes;
  for (int first = 0; first < row.groups; first += kMaxGroups) {
    const int groups = std::min(kMaxGroups, row.groups - first);
    for (int b = begin; b < end; ++b) {
      const int place = (b - begin) % kBatch;
      if (b + kAhead < end) PrefetchBlock(layer, row.table[b + kAhead]);
      const int tokens = std::min(layer.block_tokens, row.kv_len - b * layer.block_tokens);
      ScoreBlock<kFormat>(row, row.w + first * row.heads, groups,
                          BlockSelectorKeys(layer, row.table[b]), tokens, padded,
                          layer.selector_dim, scores + place * kMaxBlockTokens);
      if (place + 1 < kBatch && b + 1 < end) continue;
      for (int g = 0; g < groups; ++g) {
        const int at = g * kChunkBlocks + b - begin - place;
        Reduce(scores + g * kGroupScores, padded, max + at, sum + at);
      }
    }
    for (int g = 0; g < groups; ++g) {
      ToLse(max + g * kChunkBlocks, sum + g * kChunkBlocks, end - begin,
            row.lse + (first + g) * row.lse_stride + begin);
    }
  }
}

// Rounds the queries of one row. q: [heads, dim]; out: [dim / kGroup, padded].
template <typename Format>
void Round(const float* q, int heads, int padded, int dim, RoundedQuery<Format::kGroup>* out) {
  constexpr int kGroup = Format::kGroup;
  for (int g = 0; g < dim / kGroup; ++g, out += padded) {
    for (int h = 0; h < heads; ++h) {
      RoundedQuery<kGroup>& rounded = out[h];
      rounded.scale = int8::HWY_NAMESPACE::Round<kGroup>(q + h * dim + g * kGroup, rounded.values);
      int32_t sum = 0;
      for (const int8_t value : rounded.values) sum += value;
      rounded.start = -Format::kZero * sum;
    }
    std::fill(out + heads, out + padded, RoundedQuery<kGroup>());
  }
}

void RoundQueries(SelectorKeyFormat format, const float* q, int heads, int padded, int dim,
                  std::byte* out) {
  if (format == SelectorKeyFormat::kInt4) {
    Round<Int4>(q, heads, padded, dim, reinterpret_cast<RoundedQuery<kInt4Group>*>(out));
  } else {
    Round<Fp4>(q, heads, padded, dim, reinterpret_cast<RoundedQuery<kFp4Group>*>(out));
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
HWY_EXPORT(RoundQueries);

constexpr int32_t kChunk = 64;  // blocks of one task
constexpr int32_t kHeadPadding = 4;

size_t QueryBytes(SelectorKeyFormat format, int heads, int dim) {
  const auto elements = static_cast<size_t>(heads) * static_cast<size_t>(dim);
  switch (format) {
    case SelectorKeyFormat::kInt4:
      return elements / kInt4Group * sizeof(RoundedQuery<kInt4Group>);
    case SelectorKeyFormat::kFp4:
      return elements / kFp4Group * sizeof(RoundedQuery<kFp4Group>);
    default:
      return elements * sizeof(float);
  }
}

// The queries of a row as RowScores::q, with heads of zeros up to `padded`.
void PrepareQueries(const SelectorScoreArgs& args, int64_t row, int padded, std::byte* out) {
  const int dim = args.layer.selector_dim;
  const float* const q = static_cast<const float*>(args.q) + row * args.heads * dim;
  if (args.layer.selector_format == SelectorKeyFormat::kBf16) {
    auto* const floats = reinterpret_cast<float*>(out);
    std::copy(q, q + args.heads * dim, floats);
    std::fill(floats + args.heads * dim, floats + padded * dim, 0.0f);
  } else {
    HWY_DYNAMIC_DISPATCH(RoundQueries)
    (args.layer.selector_format, q, args.heads, padded, dim, out);
  }
}

// Mixing weights of a row, 0 for the heads up to `padded`. They hold 1 / sqrt(d_s) and the change
// to base 2.
void PrepareWeights(const SelectorScoreArgs& args, int64_t row, int padded, float* w) {
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(args.layer.selector_dim));
  const float* mixing = static_cast<const float*>(args.w) + row * args.groups * args.heads;
  for (int g = 0; g < args.groups; ++g, mixing += args.heads, w += padded) {
    for (int h = 0; h < padded; ++h) w[h] = h < args.heads ? mixing[h] * scale : 0.0f;
  }
}

}  // namespace

void SelectorScore(const SelectorScoreArgs& args, ThreadPool& pool, SelectorScratch& scratch) {
  const SequenceBatch& batch = args.batch;
  const int heads = (args.heads + kHeadPadding - 1) / kHeadPadding * kHeadPadding;
  const size_t query_bytes = QueryBytes(args.layer.selector_format, heads, args.layer.selector_dim);
  const auto row_weights = static_cast<size_t>(heads * args.groups);
  Grow(scratch.queries, static_cast<size_t>(batch.num_rows) * query_bytes);
  Grow(scratch.weights, static_cast<size_t>(batch.num_rows) * row_weights);
  const auto queries = [&](int64_t row) {
    return scratch.queries.data() + static_cast<size_t>(row) * query_bytes;
  };
  const auto weights = [&](int64_t row) {
    return scratch.weights.data() + static_cast<size_t>(row) * row_weights;
  };
  for (int64_t row = 0; row < batch.num_rows; ++row) {
    PrepareQueries(args, row, heads, queries(row));
    PrepareWeights(args, row, heads, weights(row));
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
