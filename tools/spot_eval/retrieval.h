// Answers to retrieval prompts, dense and under each policy.
//
// Protocol: what stands before the question is prefilled densely, once. The question and the reply
// are then decoded under the policy, greedily: the policy has to find the fact itself. That is
// stricter than serving, where the question is prefilled (and so read densely) too.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/common/chat_prompt.h"
#include "tools/spot_eval/eval_model.h"
#include "tools/spot_eval/policy_spec.h"

namespace spotd::eval {

struct Prompt {
  tools::PromptTokens tokens;
  int32_t max_new_tokens = 0;
  bool dense_question = false;  // as in serving: only the reply is decoded under the policy
};

struct Reply {
  std::string text;
  double density = 1;
  // Of each layer: the share of the fact's blocks that were read while the reply was decoded, mean
  // over its tokens. Empty where the prompt has no fact to watch.
  std::vector<double> fact_recall;
};

// result[i]: the dense reply to prompts[i], then one for each policy. All prompts are decoded in
// one batch of prompts * (policies + 1) rows.
absl::StatusOr<std::vector<std::vector<Reply>>> AnswerPrompts(EvalModel& model,
                                                              std::span<const Prompt> prompts,
                                                              std::span<const PolicySpec> policies);

}  // namespace spotd::eval
