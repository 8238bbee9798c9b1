#include "runtime/engine/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/runtime/tiny_model.h"

namespace spotd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using text::ChatMessage;
using text::ChatTemplateOptions;

// Trims contents and drops what a reply thought, once something follows it: as Llama 3's and
// Qwen3's templates do.
class RewritingTemplate : public text::ChatTemplate {
 public:
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                     const ChatTemplateOptions& options) const override {
    std::string out = messages.empty() || messages[0].role != "system"
                          ? "<|im_start|>system\nBe brief.<|im_end|>\n"
                          : "";
    for (size_t i = 0; i < messages.size(); ++i) {
      std::string content = messages[i].content;
      const size_t thought = content.find("</think>");
      if (i + 1 < messages.size() && thought != std::string::npos) content.erase(0, thought + 8);
      content.erase(0, content.find_first_not_of(" \n"));
      content.erase(content.find_last_not_of(" \n") + 1);
      out += "<|im_start|>" + messages[i].role + "\n" + content + "<|im_end|>\n";
    }
    if (options.add_generation_prompt) out += "<|im_start|>assistant\n";
    return out;
  }
};

class ConversationTest : public ::testing::Test {
 protected:
  // Appends messages and returns the text that was appended for them.
  std::string Say(std::vector<ChatMessage> messages, bool reply_follows,
                  const text::ChatTemplate& chat_template) {
    ChatTemplateOptions options;
    options.add_generation_prompt = reply_follows;
    const auto text = conversation_.Extend(messages, chat_template, options);
    EXPECT_TRUE(text.ok()) << text.status();
    const int32_t first = tokens_;
    tokens_ += static_cast<int32_t>(text->size());  // a token for each byte
    conversation_.AddMessages(messages, *text, {first, tokens_});
    session_ += *text;
    return *text;
  }

  void Reply(const std::string& content, bool closed) {
    const std::string text = content + (closed ? "<|im_end|>" : "");
    const int32_t first = tokens_;
    tokens_ += static_cast<int32_t>(text.size());
    conversation_.AddReply(content, text, {first, tokens_}, closed);
    session_ += text;
  }

  testing::TinyChatTemplate chat_ml_;
  RewritingTemplate rewriting_;
  Conversation conversation_;
  int32_t tokens_ = 0;
  std::string session_;  // everything appended
};

TEST_F(ConversationTest, TheSessionIsTheRenderingOfTheWholeConversation) {
  Say({{"system", "Be kind."}, {"user", "Hi"}}, true, chat_ml_);
  Reply("Hello!", true);
  EXPECT_EQ(Say({{"user", "Bye"}}, true, chat_ml_),
            "\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
  ChatTemplateOptions options;
  EXPECT_EQ(session_, *chat_ml_.Render(conversation_.Messages(), options));
  EXPECT_THAT(
      conversation_.Messages(),
      ElementsAre(Field(&ChatMessage::role, "system"), Field(&ChatMessage::role, "user"),
                  Field(&ChatMessage::role, "assistant"), Field(&ChatMessage::role, "user")));
}

TEST_F(ConversationTest, AReplyCutShortIsClosedFirst) {
  Say({{"user", "Hi"}}, true, chat_ml_);
  Reply("Hel", false);
  EXPECT_EQ(Say({{"user", "Go on"}}, false, chat_ml_),
            "<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n");
}

TEST_F(ConversationTest, AReplyInTwoPartsIsOneMessage) {
  Say({{"user", "Hi"}}, true, chat_ml_);
  Reply("Hel", false);
  Reply("lo!", true);
  ASSERT_EQ(conversation_.num_messages(), 2u);
  EXPECT_EQ(conversation_.Messages()[1].content, "Hello!");
}

TEST_F(ConversationTest, WhatIsGeneratedAfterAClosedTurnIsNoMessage) {
  Say({{"user", "Hi"}}, true, chat_ml_);
  Reply("Hello!", true);
  Reply("\nmore", false);
  EXPECT_EQ(conversation_.Messages()[1].content, "Hello!");
}

TEST_F(ConversationTest, ATemplateThatTrimsDoesNotRepeatTheReply) {
  Say({{"user", "Hi"}}, true, rewriting_);
  Reply(" Hello! \n", true);
  // Not a second default system message, and the newline after the end of the turn is not lost.
  EXPECT_EQ(Say({{"user", "Bye"}}, false, rewriting_), "\n<|im_start|>user\nBye<|im_end|>\n");
}

TEST_F(ConversationTest, ATemplateThatTrimsClosesAnOpenReply) {
  Say({{"user", "Hi"}}, true, rewriting_);
  Reply(" Hel", false);
  EXPECT_EQ(Say({{"user", "Bye"}}, false, rewriting_),
            "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n");
}

TEST_F(ConversationTest, AReplyOfWhitespaceIsClosedToo) {
  Say({{"user", "Hi"}}, true, rewriting_);
  Reply("\n ", false);
  EXPECT_EQ(Say({{"user", "Bye"}}, false, rewriting_),
            "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n");
}

TEST_F(ConversationTest, ATemplateThatDropsThoughtsGetsOnlyWhatIsNew) {
  Say({{"user", "Hi"}}, true, rewriting_);
  Reply("<think>hm</think>Hello!", true);
  EXPECT_EQ(Say({{"user", "Bye"}}, true, rewriting_),
            "\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ConversationTest, TheGenerationPromptAlone) {
  EXPECT_FALSE(conversation_.AwaitsReply());
  Say({{"user", "Hi"}}, false, chat_ml_);
  EXPECT_TRUE(conversation_.AwaitsReply());
  ChatTemplateOptions options;
  EXPECT_EQ(*conversation_.Extend({}, chat_ml_, options), "<|im_start|>assistant\n");
  Reply("Hello!", true);
  EXPECT_FALSE(conversation_.AwaitsReply());
}

TEST_F(ConversationTest, TextBeforeTheFirstMessageIsNoPartOfIt) {
  conversation_.AddText("a long document");
  EXPECT_EQ(Say({{"user", "Hi"}}, false, chat_ml_), "<|im_start|>user\nHi<|im_end|>\n");
}

TEST_F(ConversationTest, TextBetweenMessagesIsNotRenderedAgain) {
  Say({{"user", "Hi"}}, false, chat_ml_);
  conversation_.AddText("an appended document");
  EXPECT_FALSE(conversation_.AwaitsReply());
  EXPECT_EQ(Say({{"user", "Bye"}}, false, chat_ml_), "<|im_start|>user\nBye<|im_end|>\n");
}

TEST_F(ConversationTest, ATemplatesRefusalChangesNothing) {
  Say({{"user", "Hi"}}, false, chat_ml_);
  const std::vector<ChatMessage> refused = {{"refused", "x"}};
  EXPECT_FALSE(conversation_.Extend(refused, chat_ml_, {}).ok());
  EXPECT_EQ(conversation_.num_messages(), 1u);
}

class ConversationRewindTest : public ConversationTest {
 protected:
  // With a real tokenizer: the bytes of a text, control tokens as one.
  std::vector<int32_t> Encode(const std::string& text) {
    return *tokenizer_->Encode(text, {.parse_special = true});
  }
  std::vector<int32_t> all_;
  void Add(std::vector<ChatMessage> messages, bool reply_follows) {
    ChatTemplateOptions options;
    options.add_generation_prompt = reply_follows;
    const std::string text = *conversation_.Extend(messages, chat_ml_, options);
    const auto first = static_cast<int32_t>(all_.size());
    for (const int32_t token : Encode(text)) all_.push_back(token);
    conversation_.AddMessages(messages, text, {first, static_cast<int32_t>(all_.size())});
  }
  void Answer(const std::string& content) {
    const auto first = static_cast<int32_t>(all_.size());
    for (const int32_t token : Encode(content)) all_.push_back(token);
    conversation_.AddReply(content, content, {first, static_cast<int32_t>(all_.size())}, false);
  }
  void RewindTo(size_t tokens) {
    all_.resize(tokens);
    conversation_.Rewind(all_, *tokenizer_);
  }
  std::unique_ptr<text::Tokenizer> tokenizer_ =
      *text::Tokenizer::Create(testing::TinyTokenizerData());
};

TEST_F(ConversationRewindTest, WholeMessagesStay) {
  Add({{"user", "Hi"}}, true);
  const size_t after_first = all_.size();
  Answer("Hello");
  Add({{"user", "Bye"}}, true);
  RewindTo(after_first);
  EXPECT_EQ(conversation_.num_messages(), 1u);
  // As if nothing had happened since.
  EXPECT_TRUE(conversation_.AwaitsReply());
  EXPECT_EQ(*conversation_.Extend({}, chat_ml_, {}), "");
}

TEST_F(ConversationRewindTest, AReplyIsShortenedToWholeCharacters) {
  Add({{"user", "Hi"}}, true);
  const size_t start = all_.size();
  Answer("na\xC3\xAFve");
  RewindTo(start + 3);  // in the middle of the two bytes of ï
  EXPECT_EQ(conversation_.Messages()[1].content, "na");
  Answer("rration");
  EXPECT_EQ(conversation_.num_messages(), 2u);
}

TEST_F(ConversationRewindTest, AMessageCutThroughIsForgotten) {
  Add({{"user", "Hi"}}, false);
  const size_t first = all_.size();
  Add({{"user", "Bye"}}, false);
  RewindTo(first + 3);
  EXPECT_EQ(conversation_.num_messages(), 1u);
  RewindTo(first - 1);
  EXPECT_EQ(conversation_.num_messages(), 0u);
  // A new conversation starts behind what is left.
  const std::vector<ChatMessage> added = {{"user", "New"}};
  ChatTemplateOptions options;
  options.add_generation_prompt = false;
  EXPECT_EQ(*conversation_.Extend(added, chat_ml_, options), "<|im_start|>user\nNew<|im_end|>\n");
}

}  // namespace
}  // namespace spotd::engine
