#include "tools/spot_eval/distribution.h"

#include <algorithm>
#include <cmath>

namespace spotd::eval {
namespace {

size_t Top(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double LogSumExp(std::span<const float> logits, size_t top) {
  const float max = logits[top];
  double sum = 0;
  for (const float logit : logits) sum += static_cast<double>(std::exp(logit - max));
  return static_cast<double>(max) + std::log(sum);
}

}  // namespace

Reference::Reference(std::span<const float> logits)
    : logits_(logits), top_(Top(logits)), probabilities_(logits.size()) {
  log_sum_ = LogSumExp(logits, top_);
  const auto log_sum = static_cast<float>(log_sum_);
  for (size_t i = 0; i < logits.size(); ++i) probabilities_[i] = std::exp(logits[i] - log_sum);
}

Reference::Comparison Reference::Compare(std::span<const float> other, int32_t token) const {
  const size_t top = Top(other);
  const double log_sum = LogSumExp(other, top);
  double difference = 0;  // mean of reference - other logits under the reference
  for (size_t i = 0; i < other.size(); ++i) {
    difference += static_cast<double>(probabilities_[i] * (logits_[i] - other[i]));
  }
  Comparison result;
  // Rounding must not show as a negative divergence; what is no number must show.
  const double kl = difference - log_sum_ + log_sum;
  result.kl = kl < 0 ? 0 : kl;
  result.same_top = top == top_;
  result.nll = log_sum - static_cast<double>(other[static_cast<size_t>(token)]);
  return result;
}

double Reference::Nll(int32_t token) const {
  return log_sum_ - static_cast<double>(logits_[static_cast<size_t>(token)]);
}

}  // namespace spotd::eval
