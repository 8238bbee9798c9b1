// Long texts that end with a question about something far back, and its answer: what a budget must
// keep besides plain text. Calibration searches with them.
//
// The facts are of three kinds, in turn: a number that one of several people has, three numbers
// that belong together, and a name. They stand in lines of the user's own corpus, in the words of
// the checkpoint's chat template. Forms and words are not those of spot-eval's tasks, nor of
// fetch_corpus.py's conversations, so that those still judge.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/model_source.h"
#include "runtime/text/tokenizer.h"

namespace spotd::distill {

struct QuestionDocument {
  std::vector<int32_t> tokens;  // at most as many as asked for
  int32_t answer_tokens = 0;    // of these, the last
};

// `count` texts of nearly `length` tokens, the asked fact at evenly spread depths, made of the
// lines of `documents`. The same arguments give the same tokens. INVALID_ARGUMENT where `length`
// leaves no room for text around the facts, or where lines are too long to fill it.
absl::StatusOr<std::vector<QuestionDocument>> MakeQuestionDocuments(
    const model::ModelSource& source, const text::Tokenizer& tokenizer,
    std::span<const std::span<const int32_t>> documents, int32_t length, int32_t count,
    uint64_t seed);

}  // namespace spotd::distill
