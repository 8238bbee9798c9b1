// Chat templates against transformers: chat_goldens.json holds what it renders.
#include "runtime/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/runtime/text/test_files.h"

namespace spotd::text {
namespace {

using testing::HasSubstr;

std::vector<ChatMessage> Messages(const nlohmann::json& list) {
  std::vector<ChatMessage> messages;
  for (const auto& message : list) {
    messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  return messages;
}

ChatTemplateOptions Options(const nlohmann::json& golden) {
  ChatTemplateOptions options;
  options.add_generation_prompt = golden["add_generation_prompt"].get<bool>();
  options.bos_token = "<|begin|>";
  options.eos_token = "<|end|>";
  options.now = std::chrono::system_clock::from_time_t(1721999109);
  if (golden.contains("enable_thinking")) {
    options.switches.emplace_back("enable_thinking", golden["enable_thinking"].get<bool>());
  }
  return options;
}

TEST(ChatTemplateTest, RendersAsTransformersDoes) {
  setenv("TZ", "UTC", 1);
  std::map<std::string, std::unique_ptr<ChatTemplate>> templates;
  size_t checked = 0;
  for (const auto& golden : nlohmann::json::parse(ReadGolden("chat_goldens.json"))) {
    const auto name = golden["template"].get<std::string>();
    auto& chat_template = templates[name];
    if (chat_template == nullptr) {
      auto parsed = ChatTemplate::Parse(ReadGolden("chat/" + name));
      ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.status();
      chat_template = *std::move(parsed);
    }
    const auto rendered = chat_template->Render(Messages(golden["messages"]), Options(golden));
    if (golden.contains("output")) {
      ASSERT_TRUE(rendered.ok()) << name << golden["messages"] << rendered.status();
      EXPECT_EQ(*rendered, golden["output"].get<std::string>()) << name << golden["messages"];
    } else {
      ASSERT_FALSE(rendered.ok()) << name << golden["messages"];
      const auto error = golden["error"].get<std::string>();
      const bool raised = error.find("must alternate") != std::string::npos;
      EXPECT_TRUE(!raised || rendered.status().message() == error) << rendered.status();
    }
    ++checked;
  }
  EXPECT_GE(templates.size(), 6u);
  EXPECT_GT(checked, 600u);
}

TEST(ChatTemplateTest, MissingTokensAreUndefined) {
  const auto parsed = ChatTemplate::Parse(
      "{{ bos_token is defined }}{{ tools is none }}{{ enable_thinking is defined }}");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*(*parsed)->Render({}, {}), "FalseTrueFalse");
}

TEST(ChatTemplateTest, BadInput) {
  EXPECT_THAT(ChatTemplate::Parse("{% for %}").status().message(), HasSubstr("line 1, column"));
  const auto parsed = ChatTemplate::Parse("{{ messages[0].content }}");
  ASSERT_TRUE(parsed.ok());
  const ChatMessage broken{"user", "ab\xff"};
  EXPECT_EQ((*parsed)->Render({&broken, 1}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, LongDocumentsAreNoTrouble) {
  const auto parsed = ChatTemplate::Parse(ReadGolden("chat/qwen3.jinja"));
  ASSERT_TRUE(parsed.ok());
  const ChatMessage message{"user", std::string(8 << 20, 'x')};
  const auto rendered = (*parsed)->Render({&message, 1}, {});
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_GT(rendered->size(), message.content.size());
}

TEST(ChatTemplateTest, ThreadsShareATemplate) {
  const auto parsed = ChatTemplate::Parse(ReadGolden("chat/llama31.jinja"));
  ASSERT_TRUE(parsed.ok());
  const std::vector<ChatMessage> messages = {{"system", "s"}, {"user", "u"}};
  const auto expected = (*parsed)->Render(messages, {});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 50; ++k) EXPECT_EQ(*(*parsed)->Render(messages, {}), *expected);
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace spotd::text
