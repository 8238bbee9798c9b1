// The command line of spot-eval, checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/selector_key.h"
#include "tools/common/loaded_model.h"
#include "tools/spot_eval/policy_spec.h"
#include "tools/spot_eval/retrieval_tasks.h"

namespace spotd::eval {

struct EvalOptions {
  tools::ModelOptions model;  // selector_format and sizes are set by the command
  std::vector<std::string> key_formats;
  std::vector<int32_t> contexts;  // ascending
  std::vector<std::string> policies;
  std::vector<std::string> text;
  int32_t batch = 0;  // most rows of a decode step
  std::string out;    // JSON file; empty: none
  uint64_t seed = 0;
  // ppl and mass
  int32_t tail = 0;
  int32_t documents = 0;
  bool windows = false;  // of the largest context, as many as each document holds
  // needle, track and qa
  std::vector<TaskKind> tasks;
  std::vector<double> depths;  // needle
  int32_t prompts = 0;         // a point
  int32_t max_new_tokens = 0;
  bool dense_question = false;
};

// Of the command named: ppl, mass, needle, track or qa. Errors name the flag.
absl::StatusOr<EvalOptions> ReadOptions(const std::string& command);

absl::StatusOr<kernels::SelectorKeyFormat> ParseKeyFormat(const std::string& name);

// The policies of one key format at one context. Those that read no selector keys are measured with
// the first format only.
absl::StatusOr<std::vector<PolicySpec>> PoliciesFor(const EvalOptions& options, bool first_format,
                                                    int32_t context);

// Documents or prompts decoded side by side: as many as fit a batch with a row for each policy and
// the dense one, and no more than there are at one context; at least 1.
int32_t SequencesAtOnce(const EvalOptions& options);

// `options.model` sized for such batches at the largest context, with rows that grow by
// `growth` tokens.
tools::ModelOptions SizedModel(const EvalOptions& options, int32_t growth);

}  // namespace spotd::eval
