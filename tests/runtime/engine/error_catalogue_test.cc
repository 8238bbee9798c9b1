#include "runtime/engine/error_catalogue.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace spotd::engine {
namespace {

TEST(ErrorCatalogueTest, ReasonsAreUniqueAndWellFormed) {
  const std::regex form("[A-Z][A-Z0-9_]{0,61}[A-Z0-9]");  // AIP-193
  std::set<std::string> seen;
  for (const ReasonInfo& info : ErrorCatalogue()) {
    EXPECT_TRUE(std::regex_match(info.reason, form)) << info.reason;
    EXPECT_TRUE(seen.insert(info.reason).second) << info.reason;
    EXPECT_EQ(FindReason(info.reason), &info);
    EXPECT_STRNE(info.meaning, "") << info.reason;
    // Being refused for want of room always says when to come back.
    EXPECT_EQ(info.retry_info, info.code == absl::StatusCode::kResourceExhausted) << info.reason;
  }
  EXPECT_EQ(FindReason("NO_SUCH_REASON"), nullptr);
}

// Every constant of error_reasons.h is in the table, and nothing else.
TEST(ErrorCatalogueTest, HoldsEveryReason) {
  std::ifstream file(std::string(SPOTD_SOURCE_DIR) + "/runtime/engine/error_reasons.h");
  std::stringstream text;
  text << file.rdbuf();
  const std::string source = text.str();
  const std::regex constant("= \"([A-Z0-9_]+)\"");
  std::set<std::string> declared;
  for (std::sregex_iterator it(source.begin(), source.end(), constant), end; it != end; ++it) {
    declared.insert((*it)[1]);
  }
  std::set<std::string> listed;
  for (const ReasonInfo& info : ErrorCatalogue()) listed.insert(info.reason);
  EXPECT_EQ(declared, listed);
}

// SPOTD_UPDATE_DOCS=1 writes the page.
TEST(ErrorCatalogueTest, TheDocsAreCurrent) {
  const std::string path = std::string(SPOTD_SOURCE_DIR) + "/docs/errors.md";
  if (std::getenv("SPOTD_UPDATE_DOCS") != nullptr) std::ofstream(path) << ErrorReference();
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), ErrorReference()) << "run this test with SPOTD_UPDATE_DOCS=1";
}

}  // namespace
}  // namespace spotd::engine
