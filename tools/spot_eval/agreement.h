// How closely sparse decoding follows dense decoding: next-token distributions on held-out text,
// teacher-forced.
//
// Protocol (the selector's own): the tokens of a document before its tail are prefilled densely,
// once; the tail is then decoded one token at a time by all policies side by side, every one seeing
// the same tokens. At shorter contexts the start of the document is left out, so that every context
// length predicts the same tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/spot_eval/corpus.h"
#include "tools/spot_eval/eval_model.h"
#include "tools/spot_eval/policy_spec.h"

namespace spotd::eval {

// One policy on one document, means over the predictions of the tail.
struct Agreement {
  double nll = 0;        // negative log likelihood of the text, nats per token
  double dense_nll = 0;  // of the dense model on the same tokens
  double kl = 0;         // KL(dense || policy), nats
  double top1 = 0;       // share of positions with the same most likely token
  Reading reading;
};

struct TailOptions {
  int32_t end = 0;      // the tail ends at this token of the document
  int32_t context = 0;  // tokens up to the end that the model sees
  int32_t tail = 0;     // of these, decoded; >= 2
};

// result[d][p] belongs to documents[d] and policies[p]. Every document has at least `end` tokens.
// All documents are decoded in one batch of documents * (policies + 1) rows.
absl::StatusOr<std::vector<std::vector<Agreement>>> MeasureAgreement(
    EvalModel& model, std::span<const Document> documents, const TailOptions& options,
    std::span<const PolicySpec> policies);

}  // namespace spotd::eval
