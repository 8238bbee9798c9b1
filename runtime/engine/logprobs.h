// The likeliest tokens of one row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace spotd::engine {

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // natural logarithm of its probability
};

// The `count` largest of `logits`, likeliest first, ties to the lower id. Not a number is never
// among them. Accumulates in double, so the order of a sum hardly matters.
std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, int32_t count);

}  // namespace spotd::engine
