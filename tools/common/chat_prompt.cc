#include "tools/common/chat_prompt.h"

#include <algorithm>

#include "kernels/core/status.h"

namespace spotd::tools {
namespace {

// Stands for the message while the template runs.
constexpr char kPlace[] = "(the message)";

std::string TokenTextOrEmpty(const text::Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? "" : tokenizer.TokenText(id);
}

}  // namespace

absl::StatusOr<ChatPrompt> ChatPrompt::Create(const model::ModelSource& source,
                                              const text::Tokenizer* tokenizer) {
  ChatPrompt prompt;
  prompt.tokenizer_ = tokenizer;
  const std::string& jinja = source.tokenizer_data().chat_template;
  if (jinja.empty()) return prompt;
  SPOTD_ASSIGN_OR_RETURN(const auto chat_template, text::ChatTemplate::Parse(jinja));
  text::ChatTemplateOptions options;
  options.bos_token = TokenTextOrEmpty(*tokenizer, tokenizer->bos());
  options.eos_token = TokenTextOrEmpty(*tokenizer, tokenizer->eos());
  const text::ChatMessage message = {"user", kPlace};
  SPOTD_ASSIGN_OR_RETURN(const std::string text, chat_template->Render({&message, 1}, options));
  const size_t at = text.find(kPlace);
  if (at == std::string::npos) {
    return InvalidArgument("the chat template leaves out the user's message");
  }
  prompt.before_ = text.substr(0, at);
  prompt.after_ = text.substr(at + sizeof(kPlace) - 1);
  return prompt;
}

absl::Status ChatPrompt::Append(const std::string& text, bool from_template,
                                std::vector<int32_t>* to) const {
  SPOTD_ASSIGN_OR_RETURN(
      const auto tokens,
      tokenizer_->Encode(text, {.add_special = to->empty() && from_template && before_.empty(),
                                .parse_special = from_template}));
  to->insert(to->end(), tokens.begin(), tokens.end());
  return absl::OkStatus();
}

absl::Status ChatPrompt::FindFact(const std::string& document, const std::string& fact,
                                  PromptTokens* tokens) const {
  const size_t at = document.find(fact);
  if (at == std::string::npos) return absl::OkStatus();
  const auto header = static_cast<int32_t>(tokens->document.size());
  SPOTD_ASSIGN_OR_RETURN(const auto before, tokenizer_->Encode(document.substr(0, at), {}));
  SPOTD_ASSIGN_OR_RETURN(const auto line, tokenizer_->Encode(fact, {}));
  tokens->fact_begin = header + static_cast<int32_t>(before.size());
  tokens->fact_end = tokens->fact_begin + static_cast<int32_t>(line.size());
  return absl::OkStatus();
}

absl::StatusOr<PromptTokens> ChatPrompt::Encode(const Question& question) const {
  PromptTokens tokens;
  std::string document = question.instruction;
  for (const std::string& piece : question.document) document += piece;
  SPOTD_RETURN_IF_ERROR(Append(before_, true, &tokens.document));
  if (!question.fact.empty()) {
    SPOTD_RETURN_IF_ERROR(FindFact(document, question.fact, &tokens));
  }
  SPOTD_RETURN_IF_ERROR(Append(document, false, &tokens.document));
  SPOTD_RETURN_IF_ERROR(Append(question.question, false, &tokens.question));
  SPOTD_RETURN_IF_ERROR(Append(after_, true, &tokens.question));
  SPOTD_RETURN_IF_ERROR(Append(question.answer_start, false, &tokens.question));
  return tokens;
}

}  // namespace spotd::tools
