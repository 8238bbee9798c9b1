// A question put to the model in the words of its own chat template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/model_source.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"
#include "tools/common/question.h"

namespace spotd::tools {

struct PromptTokens {
  std::vector<int32_t> document;  // everything before the question
  std::vector<int32_t> question;  // the question, the template's reply header, the reply's start
  // The question's `fact` in the document, tokens [begin, end); empty where there is none.
  int32_t fact_begin = 0;
  int32_t fact_end = 0;
};

class ChatPrompt {
 public:
  // A checkpoint without a chat template gets the text alone. `tokenizer` must outlive the prompt.
  static absl::StatusOr<ChatPrompt> Create(const model::ModelSource& source,
                                           const text::Tokenizer* tokenizer);
  absl::StatusOr<PromptTokens> Encode(const Question& question) const;

 private:
  // Control tokens of the template count as such; those that the text happens to spell do not.
  absl::Status Append(const std::string& text, bool from_template, std::vector<int32_t>* to) const;
  // Sets the fact's place, give or take the token that a line's end may share with the next.
  absl::Status FindFact(const std::string& document, const std::string& fact,
                        PromptTokens* tokens) const;

  const text::Tokenizer* tokenizer_ = nullptr;
  std::string before_;  // the template's text around a user's message
  std::string after_;
};

}  // namespace spotd::tools
