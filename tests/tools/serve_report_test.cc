#include "tools/spot_bench/serve_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace spotd::bench {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(ServeReportTest, PercentilesAreOfTheNearestRank) {
  std::vector<double> values;
  for (int i = 1; i <= 100; ++i) values.push_back(i);
  EXPECT_EQ(Percentile(values, 0.5), 50);
  EXPECT_EQ(Percentile(values, 0.99), 99);
  EXPECT_EQ(Percentile(values, 1), 100);
  EXPECT_EQ(Percentile({7}, 0.01), 7);
  EXPECT_EQ(Percentile({}, 0.5), 0);
}

// Two requests that ended well, one that was refused, one that ended in the grace time.
LoadResult SomeLoad() {
  LoadResult load;
  load.seconds = 4;
  load.requests.push_back({.due = 0,
                           .first_token = 1,
                           .end = 2,
                           .prompt_tokens = 10,
                           .tokens = 3,
                           .gaps = {0.5f, 0.25f},
                           .outcome = "OK"});
  load.requests.push_back({.due = 1,
                           .first_token = 3,
                           .end = 3.5,
                           .prompt_tokens = 30,
                           .tokens = 1,
                           .gaps = {},
                           .outcome = "OK"});
  load.requests.push_back(
      {.due = 2, .end = 2.1, .gaps = {}, .outcome = "RESOURCE_EXHAUSTED QUEUE_FULL"});
  load.requests.push_back({.due = 3,
                           .first_token = 5,
                           .end = 6,
                           .prompt_tokens = 10,
                           .tokens = 1,
                           .gaps = {},
                           .outcome = "OK"});
  return load;
}

TEST(ServeReportTest, RatesCountWhatEndedInTimeAndLatenciesRunFromWhenItWasDue) {
  const ServeReport report(SomeLoad());
  EXPECT_EQ(report.outcomes.at("OK"), 3);
  EXPECT_EQ(report.outcomes.at("RESOURCE_EXHAUSTED QUEUE_FULL"), 1);
  EXPECT_EQ(report.requests_per_second, 0.5);
  EXPECT_EQ(report.tokens_per_second, 1);
  EXPECT_EQ(report.prompt_tokens_per_second, 10);
  EXPECT_THAT(report.first_token, ElementsAre(1, 2, 2));
  EXPECT_THAT(report.total, ElementsAre(2, 2.5, 3));
  EXPECT_THAT(report.gaps, ElementsAre(DoubleEq(0.25), DoubleEq(0.5)));
  EXPECT_THAT(report.tokens_by_second, ElementsAre(0, 3, 0, 1));
}

TEST(ServeReportTest, AllThreeFormsHoldTheFigures) {
  const ServeReport report(SomeLoad());
  const nlohmann::json json = report.ToJson();
  EXPECT_EQ(json["time_to_first_token_seconds"]["p50"], 2);
  EXPECT_EQ(json["outcomes"]["OK"], 3);
  EXPECT_THAT(report.ToText(), HasSubstr("QUEUE_FULL"));
  EXPECT_THAT(report.ToSvg(), HasSubstr("</svg>"));
  EXPECT_THAT(ServeReport(LoadResult{}).ToSvg(), HasSubstr("</svg>")) << "of nothing";
}

TEST(ServeMixTest, ReadsShapesAndNamesWhatIsNone) {
  const auto mix = ParseMix("512/64@0.9,8000/32");
  ASSERT_TRUE(mix.ok()) << mix.status();
  ASSERT_THAT(*mix, SizeIs(2));
  EXPECT_EQ((*mix)[0].prompt_tokens, 512);
  EXPECT_EQ((*mix)[0].output_tokens, 64);
  EXPECT_EQ((*mix)[0].weight, 0.9);
  EXPECT_EQ((*mix)[1].weight, 1);
  for (const char* bad : {"", "512", "512/", "a/b", "512/64@", "512/64@0", "512/64@x", "0/1", "1/0",
                          "512/64x", "512-64", "1/1,,"}) {
    EXPECT_FALSE(ParseMix(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace spotd::bench
