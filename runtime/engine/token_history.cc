#include "runtime/engine/token_history.h"

namespace spotd::engine {

TokenHistory::TokenHistory(const kernels::SamplingParams& params,
                           std::span<const std::pair<int32_t, float>> bias)
    : counts_prompt_(params.repetition_penalty != 1),
      counts_generated_(counts_prompt_ || params.presence_penalty != 0 ||
                        params.frequency_penalty != 0) {
  for (const auto& [token, value] : bias) Entry(token).bias += value;
}

void TokenHistory::AddPrompt(std::span<const int32_t> tokens) {
  if (!counts_prompt_) return;
  for (const int32_t token : tokens) ++Entry(token).seen;
}

void TokenHistory::AddGenerated(int32_t token) {
  if (!counts_generated_) return;
  kernels::TokenAdjustment& entry = Entry(token);
  ++entry.seen;
  ++entry.generated;
}

kernels::TokenAdjustment& TokenHistory::Entry(int32_t token) {
  const auto [place, is_new] = index_.try_emplace(token, adjustments_.size());
  if (is_new) adjustments_.push_back({.token = token, .seen = 0, .generated = 0, .bias = 0});
  return adjustments_[place->second];
}

}  // namespace spotd::engine
