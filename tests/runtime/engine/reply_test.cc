#include "runtime/engine/reply.h"

#include <gtest/gtest.h>

#include "tests/runtime/tiny_model.h"

namespace spotd::engine {
namespace {

using testing::kImEnd;

class ReplyTest : public ::testing::Test {
 protected:
  Reply Make(const Sampling& sampling, int32_t room = 100) {
    return Reply(tokenizer_.get(), sampling, {kImEnd}, room);
  }
  // Pushes the bytes of `text` and returns what is shown.
  static std::string Push(Reply* reply, std::string_view text) {
    std::string shown;
    for (const char byte : text) {
      EXPECT_EQ(reply->finish(), FinishReason::kNone);
      shown += reply->Push(static_cast<unsigned char>(byte), 0).text;
    }
    return shown;
  }
  std::unique_ptr<text::Tokenizer> tokenizer_ =
      *text::Tokenizer::Create(testing::TinyTokenizerData());
};

TEST_F(ReplyTest, AStopTokenIsCountedAndNotShown) {
  Reply reply = Make({});
  EXPECT_EQ(Push(&reply, "Hi"), "Hi");
  EXPECT_EQ(reply.Push(kImEnd, -1).text, "");
  EXPECT_EQ(reply.finish(), FinishReason::kStopToken);
  EXPECT_EQ(reply.num_tokens(), 3);
  EXPECT_EQ(reply.content(), "Hi");
  EXPECT_EQ(reply.text(), "Hi<|im_end|>");
  EXPECT_TRUE(reply.ends_with_control_token());
}

TEST_F(ReplyTest, MaxTokensAndFullContext) {
  Sampling sampling;
  sampling.max_tokens = 2;
  Reply two = Make(sampling);
  Push(&two, "ab");
  EXPECT_EQ(two.finish(), FinishReason::kMaxTokens);
  Reply cramped = Make(sampling, /*room=*/1);
  Push(&cramped, "a");
  EXPECT_EQ(cramped.finish(), FinishReason::kContextFull);
  Reply exact = Make(sampling, /*room=*/2);
  Push(&exact, "ab");
  EXPECT_EQ(exact.finish(), FinishReason::kMaxTokens);
  Reply unlimited = Make({}, /*room=*/3);
  Push(&unlimited, "abc");
  EXPECT_EQ(unlimited.finish(), FinishReason::kContextFull);
}

TEST_F(ReplyTest, HalfACharacterIsHeldBackUntilTheEnd) {
  Sampling sampling;
  sampling.max_tokens = 3;
  Reply reply = Make(sampling);
  EXPECT_EQ(Push(&reply, "a\xE2\x82"), "a\xEF\xBF\xBD");
  EXPECT_EQ(reply.content(), "a");
  EXPECT_EQ(reply.text(), "a\xE2\x82");
}

TEST_F(ReplyTest, AStopStringEndsItAndIsNotShown) {
  Sampling sampling;
  sampling.stop_strings = {"END"};
  Reply reply = Make(sampling);
  EXPECT_EQ(Push(&reply, "the END"), "the ");
  EXPECT_EQ(reply.finish(), FinishReason::kStopString);
  EXPECT_EQ(reply.stop_string(), "END");
  EXPECT_EQ(reply.content(), "the END");  // the session has it
}

TEST_F(ReplyTest, WhatMightHaveBecomeAStopStringIsShownAtTheEnd) {
  Sampling sampling;
  sampling.stop_strings = {"END"};
  sampling.max_tokens = 3;
  Reply reply = Make(sampling);
  EXPECT_EQ(Push(&reply, "xEN"), "xEN");
  EXPECT_EQ(reply.finish(), FinishReason::kMaxTokens);
}

}  // namespace
}  // namespace spotd::engine
