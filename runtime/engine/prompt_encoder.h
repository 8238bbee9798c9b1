// Turns the pieces of a request's input into tokens, following the session's conversation.
//
// Runs on the thread that submits the request. Thread-safe: immutable after construction.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/conversation.h"
#include "runtime/engine/request.h"
#include "runtime/engine/special_text.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace spotd::engine {

// The field that holds a request's pieces, for errors: of a Generate or of an Append.
inline const char* PromptField(bool to_generate) {
  return to_generate ? "prompt" : "input";
}

struct EncodedPrompt {
  std::vector<int32_t> tokens;  // what is new
  Conversation conversation;    // the session's, with what is new
};

class PromptEncoder {
 public:
  // Both must outlive the encoder; `chat_template` is nullable. `vocab` is the model's, which may
  // exceed the tokenizer's or fall short of it: text whose tokens the model lacks is refused.
  PromptEncoder(const text::Tokenizer* tokenizer, const text::ChatTemplate* chat_template,
                int32_t vocab);

  // `session_tokens` is the length of the session so far. With `to_generate`, messages at the end
  // of the input, or the session's own where the input is empty, are followed by the template's
  // generation prompt. Errors carry details: INVALID_UTF8, TOKEN_OUT_OF_RANGE, EMPTY_PROMPT,
  // NO_CHAT_TEMPLATE, CHAT_TEMPLATE_REFUSED.
  absl::StatusOr<EncodedPrompt> Encode(std::span<const Input> inputs, const Conversation& session,
                                       int32_t session_tokens, bool to_generate) const;
  const SpecialText& special_text() const { return special_text_; }

 private:
  absl::Status AddText(const TextInput& input, const std::string& field, int32_t position,
                       EncodedPrompt* prompt) const;
  absl::Status AddTokens(const TokenInput& input, const std::string& field,
                         EncodedPrompt* prompt) const;
  absl::Status AddMessages(const MessageInput& input, const std::string& field, int32_t position,
                           bool generation_prompt, EncodedPrompt* prompt) const;
  // `messages` may be empty: the generation prompt alone.
  absl::Status Render(std::span<const text::ChatMessage> messages, const std::string& field,
                      int32_t position, bool generation_prompt, EncodedPrompt* prompt) const;

  const text::Tokenizer* tokenizer_;
  const text::ChatTemplate* chat_template_;
  int32_t vocab_;
  SpecialText special_text_;
  text::ChatTemplateOptions template_options_;
};

}  // namespace spotd::engine
