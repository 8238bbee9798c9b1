// Quest and the oracle: per query head a log mass of each block, then the mean of the heads'
// distributions.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/head_mass.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/cpu/attend-inl.h"
#include "kernels/cpu/attend_unit.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/paged.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

// Upper bounds of q . k over a block for kHeads heads: sum_i max(q_i, 0) max_i + min(q_i, 0) min_i.
// q: [kHeads, dim]; summary: [2, dim]; out: [kHeads], `stride` apart.
template <int kHeads, class D>
HWY_INLINE void BlockBounds(D d, const float* HWY_RESTRICT q, const Bf16* HWY_RESTRICT summary,
                            int dim, int64_t stride, float* HWY_RESTRICT out) {
  hn::Vec<D> sum[4];
  for (auto& s : sum) s = hn::Zero(d);
  for (int c = 0; c < dim; c += LanesOf(d)) {
    const auto low = LoadBf16(d, summary + c), high = LoadBf16(d, summary + dim + c);
    for (int h = 0; h < kHeads; ++h) {
      const auto query = hn::LoadU(d, q + h * dim + c);
      sum[h] = hn::MulAdd(hn::Max(query, hn::Zero(d)), high, sum[h]);
      sum[h] = hn::MulAdd(hn::Min(query, hn::Zero(d)), low, sum[h]);
    }
  }
  float totals[4];
  StoreFourSums(d, sum[0], sum[1], sum[2], sum[3], totals);
  for (int h = 0; h < kHeads; ++h) out[h * stride] = totals[h];
}

HWY_INLINE void PrefetchNear(const Bf16* next, int n) {
  for (int i = 0; i < n; i += kLineBytes / 2) __builtin_prefetch(next + i, 0, 2);
}

template <class D>
HWY_INLINE void BoundHeads(D d, const Stretch& s, const float* q, int heads, int64_t stride,
                           float* lse) {
  constexpr int32_t kAhead = 16;  // blocks
  const int dim = s.layer->head_dim;
  for (int32_t i = 0; i < s.blocks; ++i) {
    const int32_t block = s.first + i;
    const Bf16* const summary = BlockSummary(*s.layer, s.table[block], s.kv_head);
    if (i + kAhead < s.blocks + s.blocks_after) {
      PrefetchNear(BlockSummary(*s.layer, s.table[block + kAhead], s.kv_head), 2 * dim);
    }
    switch (heads) {
      case 1:
        BlockBounds<1>(d, q, summary, dim, stride, lse + block);
        break;
      case 2:
        BlockBounds<2>(d, q, summary, dim, stride, lse + block);
        break;
      case 3:
        BlockBounds<3>(d, q, summary, dim, stride, lse + block);
        break;
      default:
        BlockBounds<4>(d, q, summary, dim, stride, lse + block);
    }
  }
}

// Log masses by Quest's bound. q: scaled [group, dim]; lse: [group], `stride` apart, base 2.
void QuestUnit(const Stretch& s, int group, const float* q, int64_t stride, float* lse) {
  constexpr int kChunk = 4;
  const int dim = s.layer->head_dim;
  for (int h = 0; h < group; h += kChunk) {
    const int heads = std::min(kChunk, group - h);
    if (dim % LanesOf(Wide()) == 0) {
      BoundHeads(Wide(), s, q + h * dim, heads, stride, lse + h * stride);
    } else {
      BoundHeads(Narrow(), s, q + h * dim, heads, stride, lse + h * stride);
    }
  }
}

template <class D>
HWY_INLINE void TrueMasses(D d, const Stretch& s, int group, const float* q, int64_t stride,
                           float* lse) {
  HWY_ALIGN float scores[kTileTokens];
  const int dim = s.layer->head_dim;
  for (int h = 0; h < group; ++h) {
    for (int32_t i = 0; i < s.blocks; ++i) {
      KeyDots<1>(d, q + h * dim, s.Keys(i), s.TokensOf(i), dim, nullptr, scores);
      float max = -HUGE_VALF;
      float sum = 0;
      Exponentiate(scores, s.TokensOf(i), max, sum);
      lse[h * stride + s.first + i] = max + std::log2(sum);
    }
  }
}

// True log masses. Arguments as of QuestUnit.
void OracleUnit(const Stretch& s, int group, const float* q, int64_t stride, float* lse) {
  if (s.layer->head_dim % LanesOf(Wide()) == 0) {
    TrueMasses(Wide(), s, group, q, stride, lse);
  } else {
    TrueMasses(Narrow(), s, group, q, stride, lse);
  }
}

// Subtracts log2 sum 2^lse from lse [0, n): a distribution in base 2. `lse` is padded with room for
// a vector.
HWY_INLINE void Normalise(float* HWY_RESTRICT lse, int n) {
  const Wide d;
  const int padded = (n + LanesOf(d) - 1) / LanesOf(d) * LanesOf(d);
  for (int i = n; i < padded; ++i) lse[i] = -HUGE_VALF;
  auto largest = hn::LoadU(d, lse);
  for (int i = 0; i < padded; i += LanesOf(d)) largest = hn::Max(largest, hn::LoadU(d, lse + i));
  const auto top = hn::MaxOfLanes(d, largest);
  auto sum = hn::Zero(d);
  for (int i = 0; i < padded; i += LanesOf(d)) {
    sum = hn::Add(sum, Exp2(d, hn::Sub(hn::LoadU(d, lse + i), top)));
  }
  const float total = hn::GetLane(top) + std::log2(hn::GetLane(hn::SumOfLanes(d, sum)));
  for (int i = 0; i < padded; i += LanesOf(d)) {
    hn::StoreU(hn::Sub(hn::LoadU(d, lse + i), hn::Set(d, total)), d, lse + i);
  }
}

// out[b] = ln of the mean over heads of their distributions. lse: [heads], `stride` apart and
// padded; clobbered.
void MeanOfHeads(float* lse, int heads, int64_t stride, int n, float* out) {
  const Wide d;
  for (int h = 0; h < heads; ++h) Normalise(lse + h * stride, n);
  const auto log_heads = hn::Set(d, std::log(static_cast<float>(heads)));
  HWY_ALIGN float result[LanesOf(Wide())];
  for (int i = 0; i < n; i += LanesOf(d)) {
    auto top = hn::LoadU(d, lse + i);
    for (int h = 1; h < heads; ++h) top = hn::Max(top, hn::LoadU(d, lse + h * stride + i));
    auto sum = hn::Zero(d);
    for (int h = 0; h < heads; ++h) {
      sum = hn::Add(sum, Exp2(d, hn::Sub(hn::LoadU(d, lse + h * stride + i), top)));
    }
    const auto log = hn::Sub(hn::MulAdd(top, hn::Set(d, kLn2), Log(d, sum)), log_heads);
    hn::Store(log, d, result);
    std::copy(result, result + std::min(LanesOf(d), n - i), out + i);
  }
}

void ScaleRows(const float* q, int n, float scale, float* out) {
  ScaleQueries(q, n, scale, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {
namespace {

HWY_EXPORT(QuestUnit);
HWY_EXPORT(OracleUnit);
HWY_EXPORT(MeanOfHeads);
HWY_EXPORT(ScaleRows);

constexpr int kPadding = 16;  // widest vector

// Both scores: `unit` fills the heads' log masses of one stretch; then the heads of a choice are
// averaged. Args is QuestScoreArgs or OracleScoreArgs; groups: choices of a row; grain: stretches
// of one task.
template <typename Args, typename Unit>
void ScoreHeads(const Args& args, int32_t groups, ThreadPool& pool, HeadMassScratch& scratch,
                int32_t stretch_blocks, int64_t grain, const Unit& unit) {
  const SequenceBatch& batch = args.batch;
  const KvLayer& layer = args.layer;
  const int64_t rows = batch.num_rows;
  const int64_t row_elements = int64_t{args.q_heads} * layer.head_dim;
  const int64_t max_blocks = NumBlocks(batch.max_kv_len, layer.block_tokens);
  const int64_t stride = (max_blocks + kPadding - 1) / kPadding * kPadding;
  const int32_t group = args.q_heads / layer.kv_heads;
  Grow(scratch.lse, static_cast<size_t>(rows * args.q_heads * stride));
  Grow(scratch.queries, static_cast<size_t>(rows * row_elements));
  HWY_DYNAMIC_DISPATCH(ScaleRows)
  (static_cast<const float*>(args.q), static_cast<int>(rows * row_elements), args.scale,
   scratch.queries.data());

  // KV heads innermost: theirs lie side by side in memory.
  const int64_t stretches = (max_blocks + stretch_blocks - 1) / stretch_blocks;
  const int64_t tasks = rows * stretches * layer.kv_heads;
  pool.ParallelFor(tasks, grain * layer.kv_heads, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const auto row = static_cast<int32_t>(task / layer.kv_heads / stretches);
      const auto index = static_cast<int32_t>(task / layer.kv_heads % stretches);
      const auto kv_head = static_cast<int32_t>(task % layer.kv_heads);
      const int32_t count = NumBlocks(batch.kv_len[row], layer.block_tokens);
      if (index * stretch_blocks >= count) continue;
      const int64_t first_head = int64_t{row} * args.q_heads + kv_head * group;
      unit(MakeStretch(batch, layer, row, kv_head, nullptr, count, index, stretch_blocks), group,
           scratch.queries.data() + first_head * layer.head_dim, stride,
           scratch.lse.data() + first_head * stride);
    }
  });

  const int32_t heads = args.q_heads / groups;
  pool.ParallelFor(rows * groups, 1, [&](int64_t choice, int64_t, int) {
    HWY_DYNAMIC_DISPATCH(MeanOfHeads)
    (scratch.lse.data() + choice * heads * stride, heads, stride,
     NumBlocks(batch.kv_len[choice / groups], layer.block_tokens),
     args.block_lse + choice * args.lse_stride);
  });
}

}  // namespace

void QuestScore(const QuestScoreArgs& args, ThreadPool& pool, HeadMassScratch& scratch) {
  constexpr int32_t kSummaries = 16;  // blocks of a stretch: all heads' fit the first cache level
  constexpr int64_t kGrain = 4;
  ScoreHeads(args, args.layer.kv_heads, pool, scratch, kSummaries, kGrain, [](const auto&... unit) {
    HWY_DYNAMIC_DISPATCH(QuestUnit)(unit...);
  });
}

void OracleScore(const OracleScoreArgs& args, ThreadPool& pool, HeadMassScratch& scratch) {
  ScoreHeads(args, args.groups, pool, scratch, StretchBlocks(args.layer.block_tokens), 1,
             [](const auto&... unit) {
               HWY_DYNAMIC_DISPATCH(OracleUnit)
               (unit...);
             });
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
