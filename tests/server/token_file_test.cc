#include "server/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace spotd::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// sha256sum of "alpha", "beta" and "gamma".
constexpr char kAlpha[] = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8";
constexpr char kBeta[] = "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753";

std::string ErrorOf(const std::string& text) {
  const auto tokens = TokenFile::Parse(text, "tokens");
  EXPECT_FALSE(tokens.ok());
  return std::string(tokens.status().message());
}

TEST(TokenFileTest, FindsTheTenantOfAToken) {
  const std::string text =
      std::string("# ours\n\n") + kAlpha + " team-a\n  " + kBeta + "\tteam_b.2  \r\n";
  const auto tokens = TokenFile::Parse(text, "tokens");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->TenantOf("alpha"), "team-a");
  EXPECT_EQ(tokens->TenantOf("beta"), "team_b.2");
  for (const char* wrong : {"", "gamma", "alph", "alpha ", kAlpha}) {
    EXPECT_EQ(tokens->TenantOf(wrong), std::nullopt) << wrong;
  }
}

TEST(TokenFileTest, NamesTheLineAndNeverQuotesIt) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("holds no token"));
  EXPECT_THAT(ErrorOf("# only this\n"), HasSubstr("holds no token"));
  const std::string plain = ErrorOf("\nmy-plain-token team\n");
  EXPECT_THAT(plain, HasSubstr("tokens:2: does not start with 64 hex digits"));
  EXPECT_THAT(plain, Not(HasSubstr("my-plain")));
  const std::string alpha = kAlpha;
  EXPECT_THAT(ErrorOf(alpha + "\n"), HasSubstr("tokens:1: after the hash"));
  EXPECT_THAT(ErrorOf(alpha + " a b\n"), HasSubstr("one tenant"));
  EXPECT_THAT(ErrorOf(alpha + " -a\n"), HasSubstr("one tenant"));
  EXPECT_THAT(ErrorOf(alpha + " a/b\n"), HasSubstr("one tenant"));
  EXPECT_THAT(ErrorOf(alpha + " " + std::string(64, 'a')), HasSubstr("one tenant"));
  EXPECT_THAT(ErrorOf(alpha + " a\n" + alpha + " b\n"), HasSubstr("tokens:2: the same token"));
}

}  // namespace
}  // namespace spotd::server
