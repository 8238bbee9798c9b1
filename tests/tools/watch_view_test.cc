#include "tools/spotctl/watch_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace spotd::spotctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBefore[] = R"(# HELP spotd_generation_tokens_total x
spotd_build_info{model_name="m",version="1.2"} 1
spotd_engine_state{model_name="m",state="ready"} 0
spotd_engine_state{model_name="m",state="draining"} 1
spotd_generation_tokens_total{model_name="m"} 100
spotd_prompt_tokens_total{model_name="m",source="computed"} 10
spotd_prompt_tokens_total{model_name="m",source="session"} 1000
spotd_kv_bytes_read_total{policy="quest"} 0
spotd_kv_bytes_dense_equivalent_total{policy="quest"} 0
h_bucket{le="0.1"} 5
h_bucket{le="1"} 5
h_bucket{le="+Inf"} 5
)";
constexpr char kAfter[] = R"(spotd_build_info{model_name="m",version="1.2"} 1
spotd_engine_state{model_name="m",state="ready"} 1
spotd_engine_state{model_name="m",state="draining"} 0
spotd_generation_tokens_total{model_name="m"} 140
spotd_prompt_tokens_total{model_name="m",source="computed"} 30
spotd_prompt_tokens_total{model_name="m",source="session"} 9000
spotd_kv_usage_ratio{model_name="m"} 0.5
spotd_kv_bytes_read_total{policy="quest"} 100
spotd_kv_bytes_dense_equivalent_total{policy="quest"} 400
spotd_requests_running{model_name="m"} 3
h_bucket{le="0.1"} 6
h_bucket{le="1"} 9
h_bucket{le="+Inf"} 10
)";

TEST(MetricsPageTest, FindsSamplesByNameAndLabels) {
  const MetricsPage page = MetricsPage::Parse(
      "# TYPE a counter\na{x=\"1\",y=\"q\\\"uote\"} 2\na{x=\"2\"} 3.5\nb 1e3\nbroken{x= 1\n\n");
  EXPECT_EQ(page.Sum("a"), 5.5);
  EXPECT_EQ(page.Sum("a", {{"x", "2"}}), 3.5);
  EXPECT_EQ(page.Sum("a", {{"y", "q\"uote"}}), 2);
  EXPECT_EQ(page.Sum("a", {{"x", "3"}}), 0);
  EXPECT_EQ(page.Sum("b"), 1000);
  EXPECT_EQ(page.Sum("broken"), 0);
  EXPECT_EQ(page.Label("a", "x"), "1");
}

TEST(MetricsPageTest, QuantilesAreOfWhatWasCountedBetween) {
  const MetricsPage before = MetricsPage::Parse(kBefore), after = MetricsPage::Parse(kAfter);
  EXPECT_DOUBLE_EQ(QuantileBetween(before, after, "h", 0.2), 0.1);
  EXPECT_DOUBLE_EQ(QuantileBetween(before, after, "h", 0.5), 0.55);
  EXPECT_DOUBLE_EQ(QuantileBetween(before, after, "h", 1), 1) << "the last finite bound";
  EXPECT_EQ(QuantileBetween(after, after, "h", 0.5), 0);
  EXPECT_EQ(QuantileBetween(before, after, "none", 0.5), 0);
}

TEST(WatchViewTest, ShowsRatesBetweenTwoLooks) {
  const MetricsPage before = MetricsPage::Parse(kBefore), after = MetricsPage::Parse(kAfter);
  const WatchFigures figures(before, after, 2);
  EXPECT_EQ(figures.state, "ready");
  EXPECT_EQ(figures.decode_rate, 20);
  EXPECT_EQ(figures.prefill_rate, 10);
  EXPECT_EQ(figures.density, 0.25);
  WatchHistory history;
  history.Add(figures);
  const std::string plain = RenderWatch(figures, history, false);
  for (const char* part : {"spotd 1.2", "ready", "50.0 %", "20.0", "25.0"}) {
    EXPECT_THAT(plain, HasSubstr(part));
  }
  EXPECT_THAT(plain, Not(HasSubstr("\033")));
  EXPECT_THAT(RenderWatch(figures, history, true), HasSubstr("\033["));
  // A server that was started again: nothing is negative.
  EXPECT_EQ(WatchFigures(after, before, 1).decode_rate, 0);
}

TEST(WatchViewTest, TheSparklinesLargestValueIsFull) {
  EXPECT_EQ(Sparkline({0, 4, 8}), " ▄█");
  EXPECT_EQ(Sparkline({0, 0}), "  ");
  EXPECT_EQ(Sparkline({}), "");
}

}  // namespace
}  // namespace spotd::spotctl
