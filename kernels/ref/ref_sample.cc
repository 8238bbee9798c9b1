#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/core/philox.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels::ref {
namespace {

struct Candidate {
  int32_t token;
  double logit;
  double p;  // after softmax over the candidates that are left
};

void Adjust(const SamplingParams& params, const TokenAdjustment& adjustment, float& logit) {
  logit += adjustment.bias;
  if (adjustment.seen > 0) {
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
  if (adjustment.generated > 0) {
    logit -= params.presence_penalty +
             params.frequency_penalty * static_cast<float>(adjustment.generated);
  }
}

// Candidates by descending logit, ties to the lower id, after top-k.
std::vector<Candidate> Rank(const SamplingParams& params, const float* logits, int32_t vocab) {
  std::vector<Candidate> ranked;
  for (int32_t t = 0; t < vocab; ++t) {
    const double logit =
        std::isnan(logits[t]) ? -std::numeric_limits<double>::infinity() : double{logits[t]};
    ranked.push_back({t, logit, 0});
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
  if (params.top_k > 0 && params.top_k < vocab) ranked.resize(static_cast<size_t>(params.top_k));
  return ranked;
}

// Softmax at the row's temperature. A row without a finite logit becomes its first candidate.
void Normalise(const SamplingParams& params, std::vector<Candidate>& ranked) {
  const double top = ranked.front().logit;
  if (std::isinf(top)) ranked.resize(1);
  double sum = 0;
  for (Candidate& c : ranked) {
    c.p = std::isinf(top) ? 1.0 : std::exp((c.logit - top) / params.temperature);
    sum += c.p;
  }
  for (Candidate& c : ranked) c.p /= sum;
}

void ApplyTopP(double top_p, std::vector<Candidate>& ranked) {
  if (top_p >= 1) return;
  double sum = 0;
  size_t keep = 0;
  while (keep < ranked.size() && sum < top_p) sum += ranked[keep++].p;
  ranked.resize(keep);
}

void ApplyMinP(double min_p, std::vector<Candidate>& ranked) {
  const double least = min_p * ranked.front().p;
  std::erase_if(ranked, [least](const Candidate& c) { return c.p < least; });
}

int32_t Draw(const SamplingParams& params, std::vector<Candidate> kept) {
  std::sort(kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  double total = 0;
  for (const Candidate& c : kept) total += c.p;
  const double target = total * PhiloxUniform(params.seed, params.draw);
  double sum = 0;
  int32_t last = kept.front().token;
  for (const Candidate& c : kept) {
    sum += c.p;
    if (c.p > 0) last = c.token;
    if (sum > target) return c.token;
  }
  return last;
}

int32_t ChooseToken(const SamplingParams& params, const float* logits, int32_t vocab) {
  std::vector<Candidate> ranked = Rank(params, logits, vocab);
  if (params.temperature == 0) return ranked.front().token;
  Normalise(params, ranked);
  ApplyTopP(params.top_p, ranked);
  ApplyMinP(params.min_p, ranked);
  return Draw(params, std::move(ranked));
}

}  // namespace

void Sample(const SampleArgs& args) {
  for (int32_t row = 0; row < args.rows; ++row) {
    float* const logits = args.logits + int64_t{row} * args.vocab;
    std::vector<double> before(logits, logits + args.vocab);
    for (int32_t a = args.adjustment_start[row]; a < args.adjustment_start[row + 1]; ++a) {
      const TokenAdjustment& adjustment = args.adjustments[a];
      Adjust(args.params[row], adjustment, logits[adjustment.token]);
    }
    const int32_t token = ChooseToken(args.params[row], logits, args.vocab);
    args.tokens[row] = token;
    args.logprobs[row] = static_cast<float>(before[static_cast<size_t>(token)] - LogSumExp(before));
  }
}

}  // namespace spotd::kernels::ref
