#include "tools/spotctl/trace_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/spotctl/trace_page.h"

namespace spotd::spotctl {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::HasSubstr;
using ::testing::Not;

// Two layers, blocks of 4 tokens; one sparse step over 5 blocks and a dense one over 6.
TraceData SomeTrace() {
  TraceData trace;
  v1::TraceHeader header;
  header.set_layer_count(2);
  header.set_block_token_count(4);
  trace.Add(header);
  v1::TraceStep sparse;
  sparse.set_position(20);
  sparse.set_token_id(7);
  v1::LayerRead* first = sparse.add_layers();
  first->add_first_blocks(0);
  first->add_block_counts(1);
  first->add_first_blocks(3);
  first->add_block_counts(9);  // more than there is
  v1::LayerRead* second = sparse.add_layers();
  second->add_first_blocks(0);
  second->add_block_counts(2);
  trace.Add(sparse);
  v1::TraceStep dense;
  dense.set_position(21);
  dense.set_token_id(8);
  dense.set_dense(true);
  trace.Add(dense);
  trace.steps[0].text = "one";
  trace.steps[1].text = "two\n";
  return trace;
}

TEST(TraceDataTest, HeatIsTheShareOfLayersThatRead) {
  const TraceData trace = SomeTrace();
  EXPECT_EQ(trace.block_count(), 6);
  EXPECT_THAT(trace.Heat(trace.steps[0]), ElementsAre(1, 0.5, 0, 0.5, 0.5, 0));
  EXPECT_THAT(trace.Heat(trace.steps[1]), ElementsAre(1, 1, 1, 1, 1, 1));
  EXPECT_THAT(trace.MeanHeat(), ElementsAre(FloatEq(1), FloatEq(0.75), FloatEq(0.5), FloatEq(0.75),
                                            FloatEq(0.75), FloatEq(0.5)));
}

TEST(TraceDataTest, BytesThatAreNoTextAreReplaced) {
  EXPECT_EQ(ValidUtf8("a\u00e9\u20ac\U0001f642"), "a\u00e9\u20ac\U0001f642");
  EXPECT_EQ(ValidUtf8("a\xf3 b\x80"), "a\ufffd b\ufffd");
  EXPECT_EQ(ValidUtf8("\xe2\x82"), "\ufffd\ufffd");
  EXPECT_EQ(ValidUtf8("\xc0\xaf\xed\xa0\x80"), "\ufffd\ufffd\ufffd\ufffd\ufffd");
}

TEST(TraceViewTest, ARowForEachTokenAndWhatWasReadMost) {
  TraceData trace = SomeTrace();
  trace.block_texts = {"zero", "first", "second"};
  const std::string view = RenderTrace(trace, 80, 10, false);
  EXPECT_THAT(view, HasSubstr("one              █▓·▓▓·\n"));
  EXPECT_THAT(view, HasSubstr("two⏎             ██████\n"));
  EXPECT_THAT(view, HasSubstr(" 75 %  tokens 4-7  first"));
  EXPECT_THAT(view, Not(HasSubstr("tokens 0-3"))) << "every token reads it";
  EXPECT_THAT(view, Not(HasSubstr("\033")));
  EXPECT_THAT(RenderTrace(trace, 80, 10, true), HasSubstr("\033[48;2;"));
}

TEST(TraceViewTest, ALongReplySharesRowsAndALongContextCells) {
  TraceData trace = SomeTrace();
  for (int i = 0; i < 1000; ++i) {
    trace.steps.push_back(trace.steps[1]);
    trace.steps.back().position = 100000;
  }
  const std::string view = RenderTrace(trace, 60, 8, false);
  EXPECT_LT(std::count(view.begin(), view.end(), '\n'), 20);
  EXPECT_EQ(RenderTrace(TraceData(), 80, 10, false), "the reply read nothing\n");
}

TEST(TracePageTest, TextsCannotLeaveTheScript) {
  TraceData trace = SomeTrace();
  trace.steps[0].text = "</script><script>alert(1)</script>\xff";
  const std::string page = TracePage(trace, "<b>title</b>");
  EXPECT_THAT(page, Not(HasSubstr("alert(1)</script>")));
  EXPECT_THAT(page, Not(HasSubstr("<b>title")));
  EXPECT_THAT(page, Not(HasSubstr("http"))) << "self-contained";
  EXPECT_THAT(page, HasSubstr("\"layers\":[[0,1,3,9],[0,2]]"));
}

}  // namespace
}  // namespace spotd::spotctl
