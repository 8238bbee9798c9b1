#include "runtime/engine/prompt_encoder.h"

#include <chrono>
#include <utility>
#include <variant>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/request_check.h"

namespace spotd::engine {
namespace {

absl::Status Invalid(const char* reason, const std::string& field, std::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, Concat(field, " ", what),
                   {.reason = reason, .field = field});
}

void Append(const std::vector<int32_t>& tokens, std::vector<int32_t>* all) {
  all->insert(all->end(), tokens.begin(), tokens.end());
}

std::string TokenTextOrEmpty(const text::Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? "" : tokenizer.TokenText(id);
}

}  // namespace

PromptEncoder::PromptEncoder(const text::Tokenizer* tokenizer,
                             const text::ChatTemplate* chat_template, int32_t vocab)
    : tokenizer_(tokenizer),
      chat_template_(chat_template),
      vocab_(vocab),
      special_text_(tokenizer) {
  template_options_.bos_token = TokenTextOrEmpty(*tokenizer, tokenizer->bos());
  template_options_.eos_token = TokenTextOrEmpty(*tokenizer, tokenizer->eos());
}

absl::StatusOr<EncodedPrompt> PromptEncoder::Encode(std::span<const Input> inputs,
                                                    const Conversation& session,
                                                    int32_t session_tokens,
                                                    bool to_generate) const {
  EncodedPrompt prompt;
  prompt.conversation = session;
  const char* const list = PromptField(to_generate);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string field = Concat(list, "[", i, "]");
    const auto position = session_tokens + static_cast<int32_t>(prompt.tokens.size());
    if (const auto* text = std::get_if<TextInput>(&inputs[i])) {
      SPOTD_RETURN_IF_ERROR(AddText(*text, field + ".text", position, &prompt));
    } else if (const auto* tokens = std::get_if<TokenInput>(&inputs[i])) {
      SPOTD_RETURN_IF_ERROR(AddTokens(*tokens, field + ".tokens", &prompt));
    } else {
      const bool generation_prompt = to_generate && i + 1 == inputs.size();
      SPOTD_RETURN_IF_ERROR(AddMessages(std::get<MessageInput>(inputs[i]), field + ".messages",
                                        position, generation_prompt, &prompt));
    }
  }
  if (to_generate && inputs.empty() && session.AwaitsReply()) {
    SPOTD_RETURN_IF_ERROR(Render({}, list, session_tokens, true, &prompt));
  }
  return prompt;
}

absl::Status PromptEncoder::AddText(const TextInput& input, const std::string& field,
                                    int32_t position, EncodedPrompt* prompt) const {
  SPOTD_RETURN_IF_ERROR(CheckUtf8(input.text, field));
  // A checkpoint that wants a bos token wants it once, at the very start.
  SPOTD_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                         tokenizer_->Encode(input.text, {.add_special = position == 0,
                                                         .parse_special = input.parse_special}));
  SPOTD_RETURN_IF_ERROR(CheckTokens(tokens, vocab_, field));
  Append(tokens, &prompt->tokens);
  prompt->conversation.AddText(input.text);
  return absl::OkStatus();
}

absl::Status PromptEncoder::AddTokens(const TokenInput& input, const std::string& field,
                                      EncodedPrompt* prompt) const {
  SPOTD_RETURN_IF_ERROR(CheckTokens(input, vocab_, field));
  Append(input, &prompt->tokens);
  prompt->conversation.AddText(WrittenOut(*tokenizer_, input));
  return absl::OkStatus();
}

absl::Status PromptEncoder::AddMessages(const MessageInput& input, const std::string& field,
                                        int32_t position, bool generation_prompt,
                                        EncodedPrompt* prompt) const {
  if (chat_template_ == nullptr) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     "this model has no chat template; send text or tokens instead",
                     {.reason = reason::kNoChatTemplate, .field = field});
  }
  if (input.empty()) return Invalid(reason::kEmptyPrompt, field, "has no message");
  std::vector<text::ChatMessage> messages;
  for (const text::ChatMessage& message : input) {
    SPOTD_RETURN_IF_ERROR(CheckUtf8(message.role, field + ".role"));
    SPOTD_RETURN_IF_ERROR(CheckUtf8(message.content, field + ".content"));
    messages.push_back({message.role, special_text_.Protect(message.content)});
  }
  return Render(messages, field, position, generation_prompt, prompt);
}

absl::Status PromptEncoder::Render(std::span<const text::ChatMessage> messages,
                                   const std::string& field, int32_t position,
                                   bool generation_prompt, EncodedPrompt* prompt) const {
  text::ChatTemplateOptions options = template_options_;
  options.add_generation_prompt = generation_prompt;
  options.now = std::chrono::system_clock::now();  // one date for the renderings that are compared
  const auto text = prompt->conversation.Extend(messages, *chat_template_, options);
  if (!text.ok()) {
    return Invalid(reason::kTemplateRefused, field,
                   Concat("is refused by the model's chat template: ", text.status().message()));
  }
  SPOTD_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, special_text_.Encode(*text));
  SPOTD_RETURN_IF_ERROR(CheckTokens(tokens, vocab_, field));
  Append(tokens, &prompt->tokens);
  const auto end = position + static_cast<int32_t>(tokens.size());
  if (messages.empty()) {
    prompt->conversation.AddText(*text);
  } else {
    prompt->conversation.AddMessages(messages, *text, {position, end});
  }
  return absl::OkStatus();
}

}  // namespace spotd::engine
