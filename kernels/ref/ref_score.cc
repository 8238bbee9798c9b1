#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/paged.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels::ref {
namespace {

// Writes log sum exp of each block's scores.
void WriteBlockLse(const std::vector<double>& scores, int32_t block_tokens, float* block_lse) {
  for (size_t begin = 0; begin < scores.size(); begin += static_cast<size_t>(block_tokens)) {
    const size_t end = std::min(scores.size(), begin + static_cast<size_t>(block_tokens));
    *block_lse++ = static_cast<float>(LogSumExp(std::vector<double>(
        scores.begin() + static_cast<int64_t>(begin), scores.begin() + static_cast<int64_t>(end))));
  }
}

double SelectorTokenScore(const SelectorScoreArgs& args, int32_t row, int32_t group,
                          const float* key) {
  const int32_t dim = args.layer.selector_dim;
  const float* const w =
      static_cast<const float*>(args.w) + (int64_t{row} * args.groups + group) * args.heads;
  double score = 0;
  for (int32_t h = 0; h < args.heads; ++h) {
    const float* const q =
        static_cast<const float*>(args.q) + (int64_t{row} * args.heads + h) * dim;
    double dot = 0;
    for (int32_t i = 0; i < dim; ++i) dot += double{q[i]} * key[i];
    score += w[h] * std::max(dot, 0.0);
  }
  return score / std::sqrt(double(dim));
}

// sum_i max(q_i min_i, q_i max_i)
double Bound(const float* q, const Bf16* summary, int32_t dim) {
  double bound = 0;
  for (int32_t i = 0; i < dim; ++i) {
    bound += std::max(double{q[i]} * ToFloat(summary[i]), double{q[i]} * ToFloat(summary[dim + i]));
  }
  return bound;
}

// Adds softmax(scores) / heads to mass.
void AddShare(const std::vector<double>& scores, int32_t heads, std::vector<double>& mass) {
  const double lse = LogSumExp(scores);
  for (size_t i = 0; i < scores.size(); ++i) mass[i] += std::exp(scores[i] - lse) / heads;
}

}  // namespace

void SelectorScore(const SelectorScoreArgs& args) {
  const KvLayer& layer = args.layer;
  const size_t key_bytes = SelectorKeyBytes(layer.selector_format, layer.selector_dim);
  std::vector<float> key(static_cast<size_t>(layer.selector_dim));
  for (int32_t row = 0; row < args.batch.num_rows; ++row) {
    const auto tokens = static_cast<size_t>(args.batch.kv_len[row]);
    std::vector<std::vector<double>> scores(static_cast<size_t>(args.groups),
                                            std::vector<double>(tokens));
    for (size_t t = 0; t < tokens; ++t) {
      const auto block_tokens = static_cast<size_t>(layer.block_tokens);
      const int32_t physical =
          PhysicalBlock(args.batch, row, static_cast<int32_t>(t / block_tokens));
      DecodeSelectorKey(layer.selector_format,
                        BlockSelectorKeys(layer, physical) + t % block_tokens * key_bytes,
                        layer.selector_dim, key.data());
      for (int32_t g = 0; g < args.groups; ++g) {
        scores[static_cast<size_t>(g)][t] = SelectorTokenScore(args, row, g, key.data());
      }
    }
    for (int32_t g = 0; g < args.groups; ++g) {
      WriteBlockLse(scores[static_cast<size_t>(g)], layer.block_tokens,
                    args.block_lse + (int64_t{row} * args.groups + g) * args.lse_stride);
    }
  }
}

void QuestScore(const QuestScoreArgs& args) {
  const KvLayer& layer = args.layer;
  const int32_t group = args.q_heads / layer.kv_heads;
  for (int32_t row = 0; row < args.batch.num_rows; ++row) {
    const int32_t blocks = NumBlocks(args.batch.kv_len[row], layer.block_tokens);
    for (int32_t g = 0; g < layer.kv_heads; ++g) {
      std::vector<double> mass(static_cast<size_t>(blocks), 0.0);
      for (int32_t h = g * group; h < (g + 1) * group; ++h) {
        const float* const q =
            static_cast<const float*>(args.q) + (int64_t{row} * args.q_heads + h) * layer.head_dim;
        std::vector<double> bounds;
        for (int32_t b = 0; b < blocks; ++b) {
          const Bf16* const summary = BlockSummary(layer, PhysicalBlock(args.batch, row, b), g);
          bounds.push_back(args.scale * Bound(q, summary, layer.head_dim));
        }
        AddShare(bounds, group, mass);
      }
      float* const out = args.block_lse + (int64_t{row} * layer.kv_heads + g) * args.lse_stride;
      for (size_t b = 0; b < mass.size(); ++b) out[b] = static_cast<float>(std::log(mass[b]));
    }
  }
}

void OracleScore(const OracleScoreArgs& args) {
  const KvLayer& layer = args.layer;
  const int32_t heads = args.q_heads / args.groups;
  for (int32_t choice = 0; choice < args.batch.num_rows * args.groups; ++choice) {
    const int32_t row = choice / args.groups;
    const int32_t tokens = args.batch.kv_len[row];
    std::vector<double> mass(static_cast<size_t>(tokens), 0.0);
    for (int32_t i = 0; i < heads; ++i) {
      const int32_t h = choice % args.groups * heads + i;
      const float* const q =
          static_cast<const float*>(args.q) + (int64_t{row} * args.q_heads + h) * layer.head_dim;
      AddShare(Scores(args.batch, layer, row, h / (args.q_heads / layer.kv_heads), q, args.scale,
                      tokens),
               heads, mass);
    }
    for (double& m : mass) m = std::log(m);
    WriteBlockLse(mass, layer.block_tokens, args.block_lse + int64_t{choice} * args.lse_stride);
  }
}

void Select(const SelectArgs& args) {
  std::vector<uint32_t> mass(static_cast<size_t>(args.selected_stride));
  for (int32_t row = 0; row < args.batch.num_rows; ++row) {
    for (int64_t g = int64_t{row} * args.groups; g < (int64_t{row} + 1) * args.groups; ++g) {
      const float* const lse =
          args.block_lse == nullptr ? nullptr : args.block_lse + g * args.lse_stride;
      const BudgetChoice choice =
          ChooseBlocks(args.rules[row], args.batch.kv_len[row], args.block_tokens, lse,
                       args.selected + g * args.selected_stride, mass.data());
      args.counts[g] = choice.count;
      args.covered_mass[g] = choice.covered;
    }
  }
}

}  // namespace spotd::kernels::ref
