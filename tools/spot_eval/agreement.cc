#include "tools/spot_eval/agreement.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/status.h"

namespace spotd::eval {
namespace {

// log softmax of one row, in place.
void LogSoftmax(std::span<float> row) {
  const float max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit) - max);
  const auto log_sum = static_cast<float>(max + std::log(sum));
  for (float& logit : row) logit -= log_sum;
}

double Kl(std::span<const float> p, std::span<const float> q) {
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) kl += std::exp(double{p[i]}) * (double{p[i]} - q[i]);
  return kl;
}

size_t Top(std::span<const float> row) {
  return static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

struct TailRun {
  std::vector<float> log_probs;  // [tail, vocab]
  double attended = 0;
  double visible = 0;
  double mass = 0;
};

// Decodes the tail after `prefix`; log_probs[i] predicts the token after tail[i].
absl::StatusOr<TailRun> DecodeTail(tools::LoadedModel& model, const kvstore::BlockTable& prefix,
                                   std::span<const int32_t> tail, const model::Policy& policy) {
  const auto vocab = static_cast<size_t>(model.transformer().config().vocab);
  TailRun run;
  run.log_probs.resize(tail.size() * vocab);
  kvstore::BlockTable table = model.store().Fork(prefix);
  for (size_t i = 0; i < tail.size(); ++i) {
    model::DecodeRow row;
    row.token = tail[i];
    row.table = &table;
    row.policy = policy;
    row.sampling.top_p = 1;
    row.sampling.repetition_penalty = 1;
    model::DecodeResult result;
    const std::span<float> logits(run.log_probs.data() + i * vocab, vocab);
    SPOTD_RETURN_IF_ERROR(model.store().Reserve(&table, 1));
    SPOTD_RETURN_IF_ERROR(model.transformer().Decode({&row, 1}, {&result, 1}, logits));
    model.store().Commit(&table, 1);
    LogSoftmax(logits);
    run.attended += static_cast<double>(result.sparsity.blocks_attended);
    run.visible += static_cast<double>(result.sparsity.blocks_visible);
    run.mass += result.sparsity.covered_mass;
  }
  return run;
}

Agreement Compare(const TailRun& dense, const TailRun& sparse, std::span<const int32_t> tail,
                  size_t vocab) {
  Agreement a;
  const size_t predictions = tail.size() - 1;
  for (size_t i = 0; i < predictions; ++i) {
    const std::span<const float> p(dense.log_probs.data() + i * vocab, vocab);
    const std::span<const float> q(sparse.log_probs.data() + i * vocab, vocab);
    const auto next = static_cast<size_t>(tail[i + 1]);
    a.nll -= q[next];
    a.dense_nll -= p[next];
    a.kl += Kl(p, q);
    a.top1 += Top(p) == Top(q) ? 1 : 0;
  }
  const auto count = static_cast<double>(predictions);
  a.nll /= count;
  a.dense_nll /= count;
  a.kl /= count;
  a.top1 /= count;
  a.density = sparse.attended / sparse.visible;
  a.covered_mass = sparse.mass / static_cast<double>(tail.size());
  return a;
}

}  // namespace

absl::StatusOr<std::vector<Agreement>> MeasureAgreement(tools::LoadedModel& model,
                                                        std::span<const int32_t> document,
                                                        int32_t context, int32_t tail,
                                                        std::span<const PolicySpec> policies) {
  const auto prefix_tokens = static_cast<size_t>(context - tail);
  kvstore::BlockTable prefix = model.store().NewTable();
  SPOTD_RETURN_IF_ERROR(model.Prefill(document.first(prefix_tokens), &prefix));
  const auto tail_tokens = document.subspan(prefix_tokens, static_cast<size_t>(tail));
  SPOTD_ASSIGN_OR_RETURN(const TailRun dense,
                         DecodeTail(model, prefix, tail_tokens, model::Policy{}));
  std::vector<Agreement> results;
  for (const PolicySpec& spec : policies) {
    SPOTD_ASSIGN_OR_RETURN(const TailRun run, DecodeTail(model, prefix, tail_tokens, spec.policy));
    results.push_back(
        Compare(dense, run, tail_tokens, static_cast<size_t>(model.transformer().config().vocab)));
  }
  return results;
}

Interval MeanInterval(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0;
  for (const double v : values) mean += v / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const double half = values.size() > 1 ? 1.96 * std::sqrt(squares / (n - 1) / n) : 0;
  return {mean, half};
}

}  // namespace spotd::eval
