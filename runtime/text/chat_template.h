// Renders a conversation the way the checkpoint was trained to see it, by running the checkpoint's
// own Jinja template.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::text {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  std::string bos_token;  // as text
  std::string eos_token;
  // Switches that some templates know, e.g. {"enable_thinking", false}.
  std::vector<std::pair<std::string, bool>> switches;
  std::optional<std::chrono::system_clock::time_point>
      now;  // for templates that print the date; default: the clock
};

class ChatTemplate {
 public:
  // INVALID_ARGUMENT with line and column for what the engine cannot parse.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(const std::string& source);
  virtual ~ChatTemplate() = default;
  // INVALID_ARGUMENT carries the template's own raise_exception message. Thread-safe. Bounded work:
  // a template cannot loop forever or build an unbounded string.
  virtual absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                             const ChatTemplateOptions& options) const = 0;
};

}  // namespace spotd::text
