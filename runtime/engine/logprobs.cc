#include "runtime/engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spotd::engine {

std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, int32_t count) {
  std::vector<TokenLogprob> top;
  float largest = -std::numeric_limits<float>::infinity();
  for (const float logit : logits) largest = std::max(largest, logit);
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    sum += std::exp(static_cast<double>(logits[i]) - largest);
    top.push_back({static_cast<int32_t>(i), logits[i]});
  }
  const auto kept = std::min<size_t>(top.size(), count);
  std::partial_sort(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(kept), top.end(),
                    [](const TokenLogprob& a, const TokenLogprob& b) {
                      return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
                    });
  top.resize(kept);
  const double log_sum = largest + std::log(sum);
  for (TokenLogprob& token : top) token.logprob = static_cast<float>(token.logprob - log_sum);
  return top;
}

}  // namespace spotd::engine
