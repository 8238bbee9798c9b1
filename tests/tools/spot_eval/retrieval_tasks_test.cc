#include "tools/spot_eval/retrieval_tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace spotd::eval {
namespace {

using tools::Insert;

int32_t CountWords(const std::string& text) {
  int32_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n';
    words += !space && !inside ? 1 : 0;
    inside = !space;
  }
  return words;
}

Haystack TestHaystack() {
  return Haystack::MadeUp(3, 3000, CountWords);
}

std::string Joined(const Question& question) {
  std::string text;
  for (const std::string& piece : question.document) text += piece;
  return text;
}

size_t Times(const std::string& text, const std::string& what) {
  size_t times = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++times;
  return times;
}

constexpr TaskKind kAll[] = {TaskKind::kNeedleSingle, TaskKind::kNeedleMultiKey,
                             TaskKind::kNeedleMultiValue, TaskKind::kTrack, TaskKind::kQa};

TEST(HaystackTest, CutsToTheBudget) {
  const Haystack haystack = TestHaystack();
  Random random(5);
  for (const int32_t budget : {0, 10, 500, 5000}) {
    int32_t words = 0;
    for (const std::string& piece : haystack.Cut(random, budget)) words += CountWords(piece);
    EXPECT_LE(words, budget);
    EXPECT_GT(words, budget - 20);
  }
}

TEST(HaystackTest, LinesOfTexts) {
  const auto haystack = Haystack::FromTexts({"one two\n\n   \nthree\n", "four"}, CountWords);
  ASSERT_TRUE(haystack.ok());
  Random random(1);
  std::vector<std::string> all = haystack->Cut(random, 4);
  EXPECT_THAT(all, ::testing::UnorderedElementsAre("one two\n", "three\n", "four\n"));
  EXPECT_FALSE(Haystack::FromTexts({" \n\n", ""}, CountWords).ok());
}

TEST(HaystackTest, InsertsAtTheDepth) {
  std::vector<std::string> pieces = {"a", "b", "c", "d"};
  Insert({0.5, "x"}, &pieces);
  EXPECT_THAT(pieces, ::testing::ElementsAre("a", "b", "x", "c", "d"));
  Insert({0, "y"}, &pieces);
  Insert({1, "z"}, &pieces);
  EXPECT_EQ(pieces.front(), "y");
  EXPECT_EQ(pieces.back(), "z");
}

TEST(RetrievalTasksTest, TheSameSeedAsksTheSame) {
  const Haystack haystack = TestHaystack();
  for (const TaskKind kind : kAll) {
    Random one(9), same(9), other(10);
    const Question a = MakeQuestion({kind, 400, 0.3}, haystack, one);
    const Question b = MakeQuestion({kind, 400, 0.3}, haystack, same);
    const Question c = MakeQuestion({kind, 400, 0.3}, haystack, other);
    EXPECT_EQ(Joined(a) + a.question, Joined(b) + b.question);
    EXPECT_EQ(a.answers, b.answers);
    EXPECT_NE(Joined(a), Joined(c));
  }
}

TEST(RetrievalTasksTest, EveryAnswerStandsInTheTextOnce) {
  const Haystack haystack = TestHaystack();
  for (const TaskKind kind : kAll) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Random random(seed);
      const Question question = MakeQuestion({kind, 300, 0.5}, haystack, random);
      for (const std::string& answer : question.answers) {
        // A variable of a chain is named again where the next one takes its value.
        EXPECT_GE(Times(Joined(question), answer), 1u) << TaskName(kind);
        EXPECT_LE(Times(Joined(question), answer), kind == TaskKind::kTrack ? 2u : 1u);
        EXPECT_EQ(Times(question.question + question.answer_start, answer), 0u);
      }
      EXPECT_FALSE(question.question.empty());
    }
  }
}

TEST(RetrievalTasksTest, NeedleStandsAtItsDepth) {
  const Haystack haystack = TestHaystack();
  for (const double depth : {0.0, 0.25, 0.75, 1.0}) {
    Random random(4);
    const Question q = MakeQuestion({TaskKind::kNeedleSingle, 1500, depth}, haystack, random);
    const std::string text = Joined(q);
    const double at =
        static_cast<double>(text.find(q.answers[0])) / static_cast<double>(text.size());
    EXPECT_NEAR(at, depth, 0.04);
  }
}

TEST(RetrievalTasksTest, DistractorsAndValues) {
  const Haystack haystack = TestHaystack();
  Random random(2);
  const Question keys = MakeQuestion({TaskKind::kNeedleMultiKey, 300, 0.5}, haystack, random);
  EXPECT_EQ(Times(Joined(keys), "special magic number"), 4u);
  EXPECT_EQ(keys.answers.size(), 1u);
  const Question values = MakeQuestion({TaskKind::kNeedleMultiValue, 300, 0.5}, haystack, random);
  EXPECT_EQ(Times(Joined(values), "special magic number"), 3u);
  EXPECT_EQ(values.answers.size(), 3u);
  const Question qa = MakeQuestion({TaskKind::kQa, 300, 0.5}, haystack, random);
  EXPECT_EQ(Times(Joined(qa), "lives in"), 4u);
}

TEST(RetrievalTasksTest, TheFactIsTheLineOfTheOneAnswer) {
  const Haystack haystack = TestHaystack();
  for (const TaskKind kind : kAll) {
    Random random(5);
    const Question q = MakeQuestion({kind, 300, 0.5}, haystack, random);
    EXPECT_EQ(q.fact.empty(), q.answers.size() > 1) << TaskName(kind);
    if (q.fact.empty()) continue;
    EXPECT_EQ(Times(Joined(q), "\n" + q.fact + "\n"), 1u) << TaskName(kind);
    EXPECT_EQ(Times(q.fact, q.answers[0]), 1u) << TaskName(kind);
  }
}

TEST(RetrievalTasksTest, AChainStandsInOrder) {
  const Haystack haystack = TestHaystack();
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Random random(seed);
    const Question q = MakeQuestion({TaskKind::kTrack, 100, 0.5}, haystack, random);
    const std::string text = Joined(q);
    ASSERT_EQ(q.answers.size(), 3u);
    size_t before = 0;
    for (const std::string& name : q.answers) {
      const size_t at = text.find("VAR " + name + " =");
      ASSERT_NE(at, std::string::npos);
      EXPECT_GE(at, before);
      before = at;
    }
    EXPECT_EQ(Times(text, "VAR "), 6u + 4u);  // two chains of three; two of each repeat a name
  }
}

TEST(RetrievalTasksTest, ScoresWholeWordsWhateverTheirCase) {
  Question q;
  q.answers = {"Lisbon", "123456"};
  EXPECT_DOUBLE_EQ(Score(q, "It is LISBON, and 123456."), 1);
  EXPECT_DOUBLE_EQ(Score(q, "lisbon"), 0.5);
  EXPECT_DOUBLE_EQ(Score(q, "Lisbonne 1234567 0123456"), 0);
  EXPECT_DOUBLE_EQ(Score(q, "x123456 then 123456"), 0.5);
  EXPECT_DOUBLE_EQ(Score(q, ""), 0);
}

TEST(RetrievalTasksTest, NamesAreReadBack) {
  for (const TaskKind kind : kAll) EXPECT_EQ(*ParseTaskKind(TaskName(kind)), kind);
  EXPECT_FALSE(ParseTaskKind("haystack").ok());
}

}  // namespace
}  // namespace spotd::eval
