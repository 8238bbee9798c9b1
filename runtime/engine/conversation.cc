#include "runtime/engine/conversation.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/special_text.h"

namespace spotd::engine {
namespace {

constexpr std::string_view kAssistant = "assistant";
constexpr std::string_view kWhitespace = " \t\r\n";

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kWhitespace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhitespace) - first + 1);
}

std::vector<text::ChatMessage> Join(std::vector<text::ChatMessage> messages,
                                    std::span<const text::ChatMessage> added) {
  messages.insert(messages.end(), added.begin(), added.end());
  return messages;
}

// What rendering `all` adds to rendering `old`; nothing when a rendering fails or does not extend
// the other.
std::optional<std::string> Difference(std::span<const text::ChatMessage> old,
                                      std::span<const text::ChatMessage> all,
                                      const text::ChatTemplate& chat_template,
                                      const text::ChatTemplateOptions& options) {
  text::ChatTemplateOptions plain = options;
  plain.add_generation_prompt = false;
  const auto before = chat_template.Render(old, plain);
  const auto after = chat_template.Render(all, options);
  if (!before.ok() || !after.ok() || !after->starts_with(*before)) return std::nullopt;
  return after->substr(before->size());
}

// The text of the tokens without a character left unfinished at their end.
std::string WholeCharacters(std::span<const int32_t> tokens, const text::Tokenizer& tokenizer) {
  text::StreamDecoder decoder(&tokenizer);
  std::string content;
  for (const int32_t token : tokens) content += decoder.Push(token);
  return content;
}

}  // namespace

absl::StatusOr<std::string> Conversation::Extend(std::span<const text::ChatMessage> added,
                                                 const text::ChatTemplate& chat_template,
                                                 const text::ChatTemplateOptions& options) const {
  std::vector<text::ChatMessage> old = Messages();
  const std::vector<text::ChatMessage> all = Join(old, added);
  SPOTD_ASSIGN_OR_RETURN(const std::string full, chat_template.Render(all, options));
  if (full.starts_with(text_)) return full.substr(text_.size());

  const std::string closing = Closing(chat_template, options);
  if (auto more = Difference(old, all, chat_template, options)) return closing + *more;
  while (!old.empty() && old.back().role == kAssistant) old.pop_back();
  if (auto more = Difference(old, Join(old, added), chat_template, options)) return closing + *more;
  if (added.empty()) return closing;
  SPOTD_ASSIGN_OR_RETURN(const std::string alone, chat_template.Render(added, options));
  return closing + alone;
}

std::string Conversation::Closing(const text::ChatTemplate& chat_template,
                                  text::ChatTemplateOptions options) const {
  if (tail_ != Tail::kReply) return {};
  const std::vector<text::ChatMessage> messages = Messages();
  options.add_generation_prompt = false;
  const auto all = chat_template.Render(messages, options);
  options.add_generation_prompt = true;
  const auto prompt = chat_template.Render(std::span(messages).first(messages.size() - 1), options);
  if (!all.ok() || !prompt.ok() || !all->starts_with(*prompt)) return {};
  // What follows the content, wherever the template put it after its generation prompt.
  std::string_view suffix = std::string_view(*all).substr(prompt->size());
  const std::string_view content = Trim(messages.back().content);
  const size_t position = suffix.rfind(content);
  if (!content.empty() && position != std::string_view::npos) {
    suffix.remove_prefix(position + content.size());
  }
  size_t held = std::min(suffix.size(), text_.size());
  while (!std::string_view(text_).ends_with(suffix.substr(0, held))) --held;
  return std::string(suffix.substr(held));
}

bool Conversation::AwaitsReply() const {
  return tail_ == Tail::kMessage && entries_.back().message.role != kAssistant;
}

std::vector<text::ChatMessage> Conversation::Messages() const {
  std::vector<text::ChatMessage> messages;
  messages.reserve(entries_.size());
  for (const Entry& entry : entries_) messages.push_back(entry.message);
  return messages;
}

void Conversation::AddMessages(std::span<const text::ChatMessage> added, std::string_view text,
                               TokenRange tokens) {
  for (const text::ChatMessage& message : added) entries_.push_back({message, tokens});
  text_ += text;
  if (!added.empty()) tail_ = Tail::kMessage;
}

void Conversation::AddText(std::string_view text) {
  if (entries_.empty()) return;
  text_ += text;
  tail_ = Tail::kText;
}

void Conversation::AddReply(std::string_view content, std::string_view text, TokenRange tokens,
                            bool closed) {
  if (entries_.empty()) return;
  text_ += text;
  if (tail_ != Tail::kReply) {
    entries_.push_back({{std::string(kAssistant), std::string(content)}, tokens, true, closed});
    tail_ = Tail::kReply;
    return;
  }
  Entry& last = entries_.back();
  if (last.closed) return;  // the turn is over: what follows it is text, not a message
  last.message.content += content;
  last.tokens.end = tokens.end;
  last.closed = closed;
}

void Conversation::Rewind(std::span<const int32_t> tokens, const text::Tokenizer& tokenizer) {
  const auto cut = static_cast<int32_t>(tokens.size());
  while (!entries_.empty() && entries_.back().tokens.end > cut) {
    Entry& last = entries_.back();
    if (last.reply && last.tokens.first < cut) {
      last.message.content = WholeCharacters(tokens.subspan(last.tokens.first), tokenizer);
      last.tokens.end = cut;
      last.closed = false;
    } else {
      entries_.pop_back();
    }
  }
  if (entries_.empty()) {
    *this = Conversation();
    return;
  }
  text_ = WrittenOut(tokenizer, tokens.subspan(entries_.front().tokens.first));
  const Entry& last = entries_.back();
  tail_ = last.tokens.end < cut ? Tail::kText : last.reply ? Tail::kReply : Tail::kMessage;
}

}  // namespace spotd::engine
