// How often each token was seen and generated, kept in the form that sampling reads. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/args.h"

namespace spotd::engine {

class TokenHistory {
 public:
  // Records nothing when no penalty of `params` needs it. `bias` is added to logits: token, what.
  explicit TokenHistory(const kernels::SamplingParams& params,
                        std::span<const std::pair<int32_t, float>> bias = {});

  void AddPrompt(std::span<const int32_t> tokens);
  void AddGenerated(int32_t token);
  // One entry for each distinct token; valid until the next Add.
  std::span<const kernels::TokenAdjustment> adjustments() const { return adjustments_; }

 private:
  kernels::TokenAdjustment& Entry(int32_t token);

  bool counts_prompt_;
  bool counts_generated_;
  std::vector<kernels::TokenAdjustment> adjustments_;
  std::unordered_map<int32_t, size_t> index_;  // token -> place in adjustments_
};

}  // namespace spotd::engine
