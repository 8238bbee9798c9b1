#include "runtime/text/chat_template.h"

#include "kernels/core/status.h"
#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/parser.h"
#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

using jinja::Value;

// A template may work this much for each byte of the messages, and this much at least.
constexpr size_t kWorkPerByte = 256;
constexpr size_t kMinWork = size_t{64} << 20;

absl::StatusOr<Value> MessageValue(const ChatMessage& message) {
  for (const std::string* text : {&message.role, &message.content}) {
    if (const auto offset = FirstInvalidUtf8(*text)) {
      return InvalidArgument("a message is not valid UTF-8 at byte ", *offset);
    }
  }
  return jinja::MakeDict({{Value::String("role"), Value::String(message.role)},
                          {Value::String("content"), Value::String(message.content)}});
}

class JinjaTemplate : public ChatTemplate {
 public:
  explicit JinjaTemplate(jinja::Body body) : body_(std::move(body)) {}

  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                     const ChatTemplateOptions& options) const override {
    std::vector<Value> list;
    size_t bytes = 0;
    for (const ChatMessage& message : messages) {
      SPOTD_ASSIGN_OR_RETURN(Value value, MessageValue(message));
      list.push_back(std::move(value));
      bytes += message.content.size() + 64;
    }
    SPOTD_ASSIGN_OR_RETURN(Value all, jinja::MakeList(std::move(list)));
    std::vector<std::pair<std::string, Value>> globals = {
        {"messages", std::move(all)},
        {"add_generation_prompt", Value::Bool(options.add_generation_prompt)},
        {"tools", Value()},
        {"documents", Value()}};
    if (!options.bos_token.empty())
      globals.emplace_back("bos_token", Value::String(options.bos_token));
    if (!options.eos_token.empty())
      globals.emplace_back("eos_token", Value::String(options.eos_token));
    for (const auto& [name, on] : options.switches) globals.emplace_back(name, Value::Bool(on));
    jinja::RenderOptions render;
    render.max_work = kMinWork + bytes * kWorkPerByte;
    render.now = options.now.value_or(std::chrono::system_clock::now());
    return jinja::Render(body_, std::move(globals), render);
  }

 private:
  const jinja::Body body_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(const std::string& source) {
  SPOTD_ASSIGN_OR_RETURN(jinja::Body body, jinja::Parse(source));
  return std::make_unique<JinjaTemplate>(std::move(body));
}

}  // namespace spotd::text
