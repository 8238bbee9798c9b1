#include "server/log.h"

#include <gtest/gtest.h>

namespace spotd::server {
namespace {

TEST(LogTest, OneLineWhateverTheValues) {
  EXPECT_EQ(FormatLogLine(LogLevel::kWarning, "a \"b\"",
                          {{"plain", "x1-y"}, {"empty", ""}, {"odd", "two\nlines = \"q\" \\"}}),
            "level=warning msg=\"a \\\"b\\\"\" plain=x1-y "
            "odd=\"two\\x0alines = \\\"q\\\" \\\\\"");
}

}  // namespace
}  // namespace spotd::server
