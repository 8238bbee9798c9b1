#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/paged.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels::ref {
namespace {

// x / rms(x) * weight; unchanged without a weight.
void NormHead(const float* weight, int32_t dim, float eps, float* x) {
  if (weight == nullptr) return;
  double sum = 0;
  for (int32_t i = 0; i < dim; ++i) sum += double{x[i]} * x[i];
  const double inverse = 1.0 / std::sqrt(sum / dim + eps);
  for (int32_t i = 0; i < dim; ++i) x[i] = static_cast<float>(x[i] * inverse * weight[i]);
}

void RotateHead(const Rope& rope, int32_t position, float* x) {
  const int32_t half = rope.rotary_dim / 2;
  for (int32_t i = 0; i < half; ++i) {
    const double angle = double{rope.inv_freq[i]} * position;
    const double c = std::cos(angle) * rope.magnitude;
    const double s = std::sin(angle) * rope.magnitude;
    const double low = x[i];
    const double high = x[i + half];
    x[i] = static_cast<float>(low * c - high * s);
    x[i + half] = static_cast<float>(high * c + low * s);
  }
}

// Calls visit(seq, row, token) for every row of the batch.
template <typename Visit>
void ForEachRow(const SequenceBatch& batch, const Visit& visit) {
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    const int32_t first = FirstNewToken(batch, s);
    for (int32_t row = batch.row_start[s]; row < batch.row_start[s + 1]; ++row) {
      visit(s, row, first + row - batch.row_start[s]);
    }
  }
}

void StoreRow(const AppendKvArgs& args, int32_t seq, int32_t row, int32_t token) {
  const KvLayer& layer = args.layer;
  const int32_t physical = PhysicalBlock(args.batch, seq, token / layer.block_tokens);
  const int32_t slot = token % layer.block_tokens;
  for (int32_t h = 0; h < layer.kv_heads; ++h) {
    const int64_t from = (int64_t{row} * layer.kv_heads + h) * layer.head_dim;
    float* const k = static_cast<float*>(args.k) + from;
    const float* const v = static_cast<const float*>(args.v) + from;
    NormHead(args.k_norm, layer.head_dim, args.eps, k);
    RotateHead(args.rope, args.positions[row], k);
    for (int32_t i = 0; i < layer.head_dim; ++i) {
      BlockKeys(layer, physical, h)[slot * layer.head_dim + i] = ToBf16(k[i]);
      BlockValues(layer, physical, h)[slot * layer.head_dim + i] = ToBf16(v[i]);
    }
  }
}

// Bounds of the first `tokens` keys of a block.
void SummariseBlock(const KvLayer& layer, int32_t physical, int32_t tokens) {
  for (int32_t h = 0; h < layer.kv_heads; ++h) {
    const Bf16* const keys = BlockKeys(layer, physical, h);
    Bf16* const summary = BlockSummary(layer, physical, h);
    for (int32_t i = 0; i < layer.head_dim; ++i) {
      float low = ToFloat(keys[i]);
      float high = low;
      for (int32_t t = 1; t < tokens; ++t) {
        low = std::min(low, ToFloat(keys[t * layer.head_dim + i]));
        high = std::max(high, ToFloat(keys[t * layer.head_dim + i]));
      }
      summary[i] = ToBf16(low);
      summary[layer.head_dim + i] = ToBf16(high);
    }
  }
}

}  // namespace

void AppendKv(const AppendKvArgs& args) {
  const KvLayer& layer = args.layer;
  ForEachRow(args.batch, [&](int32_t seq, int32_t row, int32_t token) {
    for (int32_t h = 0; h < args.q_heads; ++h) {
      float* const q =
          static_cast<float*>(args.q) + (int64_t{row} * args.q_heads + h) * layer.head_dim;
      NormHead(args.q_norm, layer.head_dim, args.eps, q);
      RotateHead(args.rope, args.positions[row], q);
    }
    StoreRow(args, seq, row, token);
  });
  if (layer.summary == nullptr) return;
  ForEachRow(args.batch, [&](int32_t seq, int32_t, int32_t token) {
    const int32_t block = token / layer.block_tokens;
    const int32_t filled = args.batch.kv_len[seq] - block * layer.block_tokens;
    SummariseBlock(layer, PhysicalBlock(args.batch, seq, block),
                   std::min(filled, layer.block_tokens));
  });
}

void AppendSelector(const AppendSelectorArgs& args) {
  const KvLayer& layer = args.layer;
  const int32_t dim = layer.selector_dim;
  const size_t key_bytes = SelectorKeyBytes(layer.selector_format, dim);
  ForEachRow(args.batch, [&](int32_t seq, int32_t row, int32_t token) {
    for (int32_t h = 0; args.q != nullptr && h < args.heads; ++h) {
      RotateHead(args.rope, args.positions[row],
                 static_cast<float*>(args.q) + (int64_t{row} * args.heads + h) * dim);
    }
    float* const k = static_cast<float*>(args.k) + int64_t{row} * dim;
    NormHead(args.k_norm, dim, args.eps, k);
    RotateHead(args.rope, args.positions[row], k);
    const int32_t physical = PhysicalBlock(args.batch, seq, token / layer.block_tokens);
    const auto slot = static_cast<size_t>(token % layer.block_tokens);
    EncodeSelectorKey(layer.selector_format, k, dim,
                      BlockSelectorKeys(layer, physical) + slot * key_bytes);
  });
}

}  // namespace spotd::kernels::ref
