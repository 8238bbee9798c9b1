#include "runtime/engine/error_catalogue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>

namespace spotd::engine {
namespace {

// As AIP-193 wants it: [A-Z][A-Z0-9_]+[A-Z0-9], at most 63 characters.
bool IsWellFormed(std::string_view reason) {
  const auto upper = [](char c) { return c >= 'A' && c <= 'Z'; };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return reason.size() >= 3 && reason.size() <= 63 && upper(reason.front()) &&
         reason.back() != '_' && std::all_of(reason.begin(), reason.end(), [&](char c) {
           return upper(c) || digit(c) || c == '_';
         });
}

TEST(ErrorCatalogueTest, ReasonsAreUniqueAndWellFormed) {
  std::set<std::string> seen;
  for (const ReasonInfo& info : ErrorCatalogue()) {
    EXPECT_TRUE(IsWellFormed(info.reason)) << info.reason;
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
  std::set<std::string> declared;
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find("= \"");
    if (first == line.npos) continue;
    declared.insert(line.substr(first + 3, line.rfind('"') - first - 3));
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
