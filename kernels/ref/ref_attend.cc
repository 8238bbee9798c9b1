#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/paged.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels::ref {
namespace {

constexpr double kNoMass = -std::numeric_limits<double>::infinity();

// softmax(scores) V over the tokens whose score is not -infinity; zeros when there is none.
// Returns the log sum exp.
double WeighValues(const SequenceBatch& batch, const KvLayer& layer, int32_t seq, int32_t kv_head,
                   const std::vector<double>& scores, float* out) {
  const double lse = LogSumExp(scores);
  std::vector<double> sum(static_cast<size_t>(layer.head_dim), 0.0);
  for (int32_t t = 0; t < static_cast<int32_t>(scores.size()); ++t) {
    const double score = scores[static_cast<size_t>(t)];
    if (score == kNoMass) continue;
    const int32_t physical = PhysicalBlock(batch, seq, t / layer.block_tokens);
    const Bf16* const v =
        BlockValues(layer, physical, kv_head) + int64_t{t % layer.block_tokens} * layer.head_dim;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::exp(score - lse) * ToFloat(v[i]);
  }
  for (size_t i = 0; i < sum.size(); ++i) out[i] = static_cast<float>(sum[i]);
  return lse;
}

// Sets the scores of tokens outside the chosen blocks to -infinity.
void KeepChosen(const AttendArgs& args, int32_t row, int32_t kv_head, std::vector<double>& scores) {
  if (args.selected == nullptr) return;
  const int64_t choice = int64_t{row} * args.groups + (args.groups == 1 ? 0 : kv_head);
  const int32_t* const chosen = args.selected + choice * args.selected_stride;
  const int32_t* const end = chosen + args.counts[choice];
  for (size_t t = 0; t < scores.size(); ++t) {
    const auto block = static_cast<int32_t>(t) / args.layer.block_tokens;
    if (std::find(chosen, end, block) == end) scores[t] = kNoMass;
  }
}

}  // namespace

std::vector<double> Scores(const SequenceBatch& batch, const KvLayer& layer, int32_t seq,
                           int32_t kv_head, const float* q, double scale, int32_t tokens) {
  std::vector<double> scores(static_cast<size_t>(tokens));
  for (int32_t t = 0; t < tokens; ++t) {
    const int32_t physical = PhysicalBlock(batch, seq, t / layer.block_tokens);
    const Bf16* const k =
        BlockKeys(layer, physical, kv_head) + int64_t{t % layer.block_tokens} * layer.head_dim;
    double dot = 0;
    for (int32_t i = 0; i < layer.head_dim; ++i) dot += double{q[i]} * ToFloat(k[i]);
    scores[static_cast<size_t>(t)] = scale * dot;
  }
  return scores;
}

double LogSumExp(const std::vector<double>& x) {
  const double max = x.empty() ? kNoMass : *std::max_element(x.begin(), x.end());
  if (max == kNoMass) return kNoMass;
  double sum = 0;
  for (const double value : x) sum += std::exp(value - max);
  return max + std::log(sum);
}

void Attend(const AttendArgs& args) {
  const KvLayer& layer = args.layer;
  for (int32_t row = 0; row < args.batch.num_rows; ++row) {
    for (int32_t h = 0; h < args.q_heads; ++h) {
      const int32_t kv_head = h / (args.q_heads / layer.kv_heads);
      const int64_t head = int64_t{row} * args.q_heads + h;
      const float* const q = static_cast<const float*>(args.q) + head * layer.head_dim;
      std::vector<double> scores =
          Scores(args.batch, layer, row, kv_head, q, args.scale, args.batch.kv_len[row]);
      KeepChosen(args, row, kv_head, scores);
      const double lse = WeighValues(args.batch, layer, row, kv_head, scores,
                                     static_cast<float*>(args.out) + head * layer.head_dim);
      if (args.lse != nullptr) args.lse[head] = static_cast<float>(lse);
    }
  }
}

void PrefillAttend(const PrefillAttendArgs& args) {
  const KvLayer& layer = args.layer;
  for (int32_t s = 0; s < args.batch.num_seqs; ++s) {
    for (int32_t row = args.batch.row_start[s]; row < args.batch.row_start[s + 1]; ++row) {
      const int32_t visible = FirstNewToken(args.batch, s) + row - args.batch.row_start[s] + 1;
      for (int32_t h = 0; h < args.q_heads; ++h) {
        const int32_t kv_head = h / (args.q_heads / layer.kv_heads);
        const int64_t head = int64_t{row} * args.q_heads + h;
        const float* const q = static_cast<const float*>(args.q) + head * layer.head_dim;
        const double lse =
            WeighValues(args.batch, layer, s, kv_head,
                        Scores(args.batch, layer, s, kv_head, q, args.scale, visible),
                        static_cast<float*>(args.out) + head * layer.head_dim);
        if (args.lse != nullptr) args.lse[head] = static_cast<float>(lse);
      }
    }
  }
}

}  // namespace spotd::kernels::ref
