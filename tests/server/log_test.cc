#include "server/log.h"

#include <gtest/gtest.h>

#include "nlohmann/json.hpp"

namespace spotd::server {
namespace {

constexpr char kTime[] = "2026-01-02T03:04:05.678Z";

TEST(LogTest, TextIsOneLineWhateverTheValues) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, kTime, LogLevel::kWarning, "a \"b\"",
                          {{"plain", "x1-y"}, {"empty", ""}, {"odd", "two\nlines = \"q\" \\"}}),
            "ts=2026-01-02T03:04:05.678Z level=warning msg=\"a \\\"b\\\"\" plain=x1-y "
            "odd=\"two\\x0alines = \\\"q\\\" \\\\\"");
}

TEST(LogTest, JsonIsOneObjectALineWhateverTheValues) {
  const std::string line =
      FormatLogLine(LogFormat::kJson, kTime, LogLevel::kError, "m",
                    {{"empty", ""}, {"odd", "two\nlines \"q\" \xff \u00e9 \x01"}});
  EXPECT_EQ(line.find('\n'), line.npos);
  for (unsigned char c : line) EXPECT_TRUE(c >= ' ' && c < 0x7f) << line;
  const nlohmann::json parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed, (nlohmann::json{{"ts", kTime},
                                    {"level", "error"},
                                    {"msg", "m"},
                                    {"odd", "two\nlines \"q\" \ufffd \u00e9 \u0001"}}));
}

}  // namespace
}  // namespace spotd::server
