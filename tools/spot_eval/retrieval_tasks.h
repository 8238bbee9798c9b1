// The prompts of the retrieval tasks, and how an answer to one is judged. Deterministic: a seed
// fixes every word.
//
//   needle  single: one line says the magic number of a word. multi-key: lines for other words
//           stand beside it. multi-value: one word has several numbers, and all are asked for.
//   track   variable tracking: chains of assignments; which variables hold a given number?
//   qa      facts about people, strewn into the text; where does one of them live?
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/common/haystack.h"
#include "tools/common/question.h"

namespace spotd::eval {

using tools::Haystack;
using tools::Question;
using tools::Random;

enum class TaskKind : uint8_t { kNeedleSingle, kNeedleMultiKey, kNeedleMultiValue, kTrack, kQa };

// INVALID_ARGUMENT lists the names: single, multi-key, multi-value, track, qa.
absl::StatusOr<TaskKind> ParseTaskKind(const std::string& name);
const char* TaskName(TaskKind kind);

struct TaskShape {
  TaskKind kind = TaskKind::kNeedleSingle;
  int32_t document_tokens = 0;  // filler; the facts come on top
  double depth = 0.5;           // needle: where the asked line stands, 0 = first
};

Question MakeQuestion(const TaskShape& shape, const Haystack& haystack, Random& random);

// The share of the answers that the reply contains, as whole words, case ignored.
double Score(const Question& question, const std::string& reply);

}  // namespace spotd::eval
