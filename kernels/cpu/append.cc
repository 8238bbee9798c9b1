// Writing a step's tokens to the cache: norm, rotary embedding, rounding, block summaries.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/append.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/core/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/selector_layout.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/paged.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

// x / rms(x) * weight; unchanged without a weight.
HWY_INLINE void NormHead(const float* HWY_RESTRICT weight, int dim, float eps,
                         float* HWY_RESTRICT x) {
  if (weight == nullptr) return;
  float sum = 0;
  for (int i = 0; i < dim; ++i) sum += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(dim) + eps);
  for (int i = 0; i < dim; ++i) x[i] *= inverse * weight[i];
}

HWY_INLINE void RotateHead(const float* HWY_RESTRICT cosines, const float* HWY_RESTRICT sines,
                           int half, float* HWY_RESTRICT x) {
  for (int i = 0; i < half; ++i) {
    const float low = x[i], high = x[half + i];
    x[i] = low * cosines[i] - high * sines[i];
    x[half + i] = high * cosines[i] + low * sines[i];
  }
}

// Norm and rotation of `heads` vectors of one row.
void NormAndRotate(const float* weight, float eps, const float* cosines, const float* sines,
                   int half, int heads, int dim, float* x) {
  for (int h = 0; h < heads; ++h, x += dim) {
    NormHead(weight, dim, eps, x);
    RotateHead(cosines, sines, half, x);
  }
}

template <class D>
HWY_INLINE void RoundRange(D d, const float* HWY_RESTRICT x, int begin, int end,
                           Bf16* HWY_RESTRICT out) {
  for (int i = begin; i < end; i += LanesOf(d)) StoreBf16(d, hn::LoadU(d, x + i), out + i);
}

void RoundRow(const float* x, int dim, Bf16* out) {
  const int wide = dim / LanesOf(Wide()) * LanesOf(Wide());
  RoundRange(Wide(), x, 0, wide, out);
  RoundRange(Narrow(), x, wide, dim, out);
}

template <class D>
HWY_INLINE void BoundColumns(D d, const Bf16* HWY_RESTRICT keys, int tokens, int dim, int begin,
                             int end, Bf16* HWY_RESTRICT summary) {
  for (int i = begin; i < end; i += LanesOf(d)) {
    auto low = LoadBf16(d, keys + i);
    auto high = low;
    for (int t = 1; t < tokens; ++t) {
      const auto key = LoadBf16(d, keys + t * dim + i);
      low = hn::Min(low, key);
      high = hn::Max(high, key);
    }
    StoreBf16(d, low, summary + i);
    StoreBf16(d, high, summary + dim + i);
  }
}

// Elementwise bounds of keys [0, tokens). keys: [tokens, dim]; summary: [2, dim].
void BoundKeys(const Bf16* keys, int tokens, int dim, Bf16* summary) {
  const int wide = dim / LanesOf(Wide()) * LanesOf(Wide());
  BoundColumns(Wide(), keys, tokens, dim, 0, wide, summary);
  BoundColumns(Narrow(), keys, tokens, dim, wide, dim, summary);
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {
namespace {

HWY_EXPORT(NormAndRotate);
HWY_EXPORT(RoundRow);
HWY_EXPORT(BoundKeys);

constexpr int64_t kRowGrain = 8;

// Calls visit(seq, row, token) for each row of the batch, on the threads of the pool.
template <typename Visit>
void ForEachRow(const SequenceBatch& batch, ThreadPool& pool, const Visit& visit) {
  pool.ParallelFor(batch.num_rows, kRowGrain, [&](int64_t begin, int64_t end, int) {
    const int32_t* const after = std::upper_bound(
        batch.row_start, batch.row_start + batch.num_seqs + 1, static_cast<int32_t>(begin));
    auto seq = static_cast<int32_t>(after - batch.row_start) - 1;
    for (auto row = static_cast<int32_t>(begin); row < end; ++row) {
      while (row >= batch.row_start[seq + 1]) ++seq;
      visit(seq, row, FirstNewToken(batch, seq) + row - batch.row_start[seq]);
    }
  });
}

void AppendRow(const AppendKvArgs& args, const RopeTable& rope, int32_t seq, int32_t row,
               int32_t token) {
  const KvLayer& layer = args.layer;
  const int32_t dim = layer.head_dim;
  float* const k = static_cast<float*>(args.k) + int64_t{row} * layer.kv_heads * dim;
  const float* const v = static_cast<const float*>(args.v) + int64_t{row} * layer.kv_heads * dim;
  HWY_DYNAMIC_DISPATCH(NormAndRotate)
  (args.q_norm, args.eps, rope.cosines(row), rope.sines(row), rope.half(), args.q_heads, dim,
   static_cast<float*>(args.q) + int64_t{row} * args.q_heads * dim);
  HWY_DYNAMIC_DISPATCH(NormAndRotate)
  (args.k_norm, args.eps, rope.cosines(row), rope.sines(row), rope.half(), layer.kv_heads, dim, k);
  const int32_t physical = PhysicalBlock(args.batch, seq, token / layer.block_tokens);
  const int32_t offset = token % layer.block_tokens * dim;
  for (int32_t h = 0; h < layer.kv_heads; ++h) {
    HWY_DYNAMIC_DISPATCH(RoundRow)(k + h * dim, dim, BlockKeys(layer, physical, h) + offset);
    HWY_DYNAMIC_DISPATCH(RoundRow)(v + h * dim, dim, BlockValues(layer, physical, h) + offset);
  }
}

// The bounds of the block that holds `token`, once all rows of the step are written.
void SummariseBlock(const AppendKvArgs& args, int32_t seq, int32_t token) {
  const KvLayer& layer = args.layer;
  const int32_t block = token / layer.block_tokens;
  const int32_t filled =
      std::min(layer.block_tokens, args.batch.kv_len[seq] - block * layer.block_tokens);
  const int32_t physical = PhysicalBlock(args.batch, seq, block);
  for (int32_t h = 0; h < layer.kv_heads; ++h) {
    HWY_DYNAMIC_DISPATCH(BoundKeys)
    (BlockKeys(layer, physical, h), filled, layer.head_dim, BlockSummary(layer, physical, h));
  }
}

// Bytes of the largest selector key.
constexpr size_t kMaxKeyBytes = 1024;

}  // namespace

void AppendKv(const AppendKvArgs& args, ThreadPool& pool, RopeTable& rope) {
  rope.Prepare(args.rope, args.positions, args.batch.num_rows);
  ForEachRow(args.batch, pool, [&](int32_t seq, int32_t row, int32_t token) {
    AppendRow(args, rope, seq, row, token);
  });
  if (args.layer.summary == nullptr) return;
  ForEachRow(args.batch, pool, [&](int32_t seq, int32_t, int32_t token) {
    const bool ends_block = (token + 1) % args.layer.block_tokens == 0;
    if (ends_block || token + 1 == args.batch.kv_len[seq]) SummariseBlock(args, seq, token);
  });
}

void AppendSelector(const AppendSelectorArgs& args, ThreadPool& pool, RopeTable& rope) {
  const KvLayer& layer = args.layer;
  const int32_t dim = layer.selector_dim;
  SPOTD_CHECK(SelectorKeyBytes(layer.selector_format, dim) <= kMaxKeyBytes);
  rope.Prepare(args.rope, args.positions, args.batch.num_rows);
  ForEachRow(args.batch, pool, [&](int32_t seq, int32_t row, int32_t token) {
    if (args.q != nullptr) {
      HWY_DYNAMIC_DISPATCH(NormAndRotate)
      (nullptr, args.eps, rope.cosines(row), rope.sines(row), rope.half(), args.heads, dim,
       static_cast<float*>(args.q) + int64_t{row} * args.heads * dim);
    }
    float* const k = static_cast<float*>(args.k) + int64_t{row} * dim;
    HWY_DYNAMIC_DISPATCH(NormAndRotate)
    (args.k_norm, args.eps, rope.cosines(row), rope.sines(row), rope.half(), 1, dim, k);
    alignas(uint64_t) std::byte plain[kMaxKeyBytes];
    EncodeSelectorKey(layer.selector_format, k, dim, plain);
    const int32_t physical = PhysicalBlock(args.batch, seq, token / layer.block_tokens);
    StoreSelectorKey(layer.selector_format, plain, dim, token % layer.block_tokens,
                     BlockSelectorKeys(layer, physical));
  });
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
