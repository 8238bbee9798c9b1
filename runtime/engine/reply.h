// What one generation has produced so far: from sampled tokens to text, and when to stop. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/engine/request.h"
#include "runtime/engine/stop_checker.h"
#include "runtime/text/tokenizer.h"

namespace spotd::engine {

class Reply {
 public:
  // `stop_tokens` are the sampling's and, unless they are ignored, the model's. `room` >= 1 tokens
  // fit the context.
  Reply(const text::Tokenizer* tokenizer, const Sampling& sampling,
        std::vector<int32_t> stop_tokens, int32_t room);

  // Takes the next token; finish() tells whether it was the last. A stop token is part of the
  // reply, its text is not. Everything held back is given out with the last token, except a stop
  // string and what follows it.
  TokenEvent Push(int32_t token, float logprob);

  FinishReason finish() const { return finish_; }
  const std::string& stop_string() const { return stops_.matched(); }
  int32_t num_tokens() const { return num_tokens_; }
  // What the tokens say: without control tokens, with a stop string. Whole characters.
  const std::string& content() const { return content_; }
  // The same with control tokens written out, byte for byte.
  const std::string& text() const { return text_; }
  bool ends_with_control_token() const { return ends_with_control_token_; }

 private:
  FinishReason Limit(int32_t token) const;

  const text::Tokenizer* tokenizer_;
  std::vector<int32_t> stop_tokens_;
  int32_t max_tokens_;
  FinishReason at_max_;
  text::StreamDecoder decoder_;
  StopChecker stops_;
  FinishReason finish_ = FinishReason::kNone;
  int32_t num_tokens_ = 0;
  std::string content_;
  std::string text_;
  bool ends_with_control_token_ = false;
};

}  // namespace spotd::engine
