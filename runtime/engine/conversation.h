// The chat messages of a session beside the text that stands for them in its tokens, so that a new
// message can be rendered as its checkpoint's template expects and only what is new is appended.
//
// Rule: the template is rendered for the whole conversation. Where the result begins with the text
// that the session already holds, the rest is what to append. Templates may rewrite what was said
// (trim a reply, drop its reasoning); cached tokens cannot change, so then the text that the new
// messages add to a rendering is appended, after what closes the turn that is open. In order, until
// one fits:
//   1. render(all) minus the session's text
//   2. render(all) minus render(old)
//   3. render(old without trailing assistant messages + new) minus render(old without them)
//   4. render(new)
//
// Text and tokens appended between messages are part of the session's text, not messages. What
// precedes the first message (a document, say) is no part of the conversation. Contents are stored
// as they are given to the template.
//
// A value: a request works on a copy, which replaces the session's when its tokens are
// acknowledged. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace spotd::engine {

// A range of the session's tokens.
struct TokenRange {
  int32_t first = 0;
  int32_t end = 0;
};

class Conversation {
 public:
  // Text that appending `added` puts into the session. `added` may be empty: the generation prompt
  // alone.
  absl::StatusOr<std::string> Extend(std::span<const text::ChatMessage> added,
                                     const text::ChatTemplate& chat_template,
                                     const text::ChatTemplateOptions& options) const;

  // Whether the newest thing in the session is a message that a reply may follow.
  bool AwaitsReply() const;
  size_t num_messages() const { return entries_.size(); }
  // The messages so far, generated replies included.
  std::vector<text::ChatMessage> Messages() const;

  // Records what was appended: messages and the text that Extend returned for them.
  void AddMessages(std::span<const text::ChatMessage> added, std::string_view text,
                   TokenRange tokens);
  // Text or tokens that are no message; `text` with control tokens written out.
  void AddText(std::string_view text);
  // What was generated: an assistant's message where a conversation is going on. `content` is what
  // a reader sees, `text` the same with control tokens written out; `closed` when it ended with a
  // control token, which ends the turn.
  void AddReply(std::string_view content, std::string_view text, TokenRange tokens, bool closed);

  // The session keeps its first `tokens.size()` tokens, which are given. Messages wholly before the
  // cut stay, a reply is shortened; messages appended in one input stand and fall together.
  void Rewind(std::span<const int32_t> tokens, const text::Tokenizer& tokenizer);

 private:
  struct Entry {
    text::ChatMessage message;
    TokenRange tokens;
    bool reply = false;
    bool closed = false;
  };
  enum class Tail : uint8_t { kText, kMessage, kReply };

  // What the template puts after the reply that the session ends with, less what the session holds
  // of it.
  std::string Closing(const text::ChatTemplate& chat_template,
                      text::ChatTemplateOptions options) const;

  std::vector<Entry> entries_;
  std::string text_;  // of the session's tokens since the first message
  Tail tail_ = Tail::kText;
};

}  // namespace spotd::engine
