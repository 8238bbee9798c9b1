#include "runtime/engine/stop_checker.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/text/utf8.h"

namespace spotd::engine {
namespace {

TEST(StopCheckerTest, WithoutStopsTextPassesThrough) {
  StopChecker checker({});
  EXPECT_EQ(checker.Push("abc"), "abc");
  EXPECT_EQ(checker.Flush(), "");
  EXPECT_FALSE(checker.stopped());
}

TEST(StopCheckerTest, FindsAStopAcrossPieces) {
  StopChecker checker({"STOP"});
  EXPECT_EQ(checker.Push("go S"), "go ");
  EXPECT_EQ(checker.Push("TO"), "");
  EXPECT_EQ(checker.Push("P and more"), "");
  EXPECT_TRUE(checker.stopped());
  EXPECT_EQ(checker.matched(), "STOP");
  EXPECT_EQ(checker.Push("late"), "");
  EXPECT_EQ(checker.Flush(), "");
}

TEST(StopCheckerTest, GivesBackWhatTurnedOutHarmless) {
  StopChecker checker({"STOP"});
  EXPECT_EQ(checker.Push("STO"), "");
  EXPECT_EQ(checker.Push("RE S"), "STORE ");
  EXPECT_EQ(checker.Flush(), "S");
}

TEST(StopCheckerTest, OverlappingBeginnings) {
  StopChecker checker({"aab"});
  EXPECT_EQ(checker.Push("a"), "");
  EXPECT_EQ(checker.Push("a"), "");
  EXPECT_EQ(checker.Push("a"), "a");
  EXPECT_EQ(checker.Push("b"), "");
  EXPECT_TRUE(checker.stopped());
}

TEST(StopCheckerTest, TheStopCompleteFirstWins) {
  StopChecker checker({"abcd", "bc"});
  EXPECT_EQ(checker.Push("xabcd"), "xa");
  EXPECT_EQ(checker.matched(), "bc");
}

TEST(StopCheckerTest, OfTwoCompleteAtOnceTheLonger) {
  StopChecker checker({"bc", "abc"});
  EXPECT_EQ(checker.Push("xabc"), "x");
  EXPECT_EQ(checker.matched(), "abc");
}

// However the text is cut, the same comes out; what is out is never taken back; and no more is held
// than needed.
TEST(StopCheckerTest, CutsDoNotMatter) {
  std::mt19937 random(5);
  const auto uniform = [&](int n) { return static_cast<int>(random() % n); };
  const std::vector<std::string> alphabet = {"a", "b", "\xC3\xA9", "\xE2\x82\xAC"};  // é, €
  const auto draw = [&](int length) {
    std::string text;
    for (int i = 0; i < length; ++i) text += alphabet[uniform(4)];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (int i = uniform(3); i >= 0; --i) stops.push_back(draw(1 + uniform(4)));
    std::string text = draw(uniform(30));
    StopChecker whole(stops);
    std::string expected = whole.Push(text);
    expected += whole.Flush();

    StopChecker pieces(stops);
    std::string got;
    while (!text.empty()) {
      size_t length = 1;
      while (length < text.size() && (text[length] & 0xc0) == 0x80) ++length;
      const std::string shown = pieces.Push(text.substr(0, length));
      EXPECT_FALSE(text::FirstInvalidUtf8(shown)) << "half a character was shown";
      got += shown;
      text.erase(0, length);
    }
    got += pieces.Flush();
    ASSERT_EQ(got, expected);
    ASSERT_EQ(pieces.matched(), whole.matched());
    stopped += whole.stopped();
  }
  EXPECT_GT(stopped, 1000);
}

}  // namespace
}  // namespace spotd::engine
