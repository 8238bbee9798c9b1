#include "server/authenticator.h"

#include <gtest/gtest.h>

#include <fstream>

#include "runtime/engine/errors.h"
#include "tests/server/test_model.h"

namespace spotd::server {
namespace {

using std::chrono::milliseconds;

constexpr char kAlpha[] = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8";
constexpr char kBeta[] = "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753";

class AuthenticatorTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_) << text; }

  std::unique_ptr<Authenticator> Create() {
    auto authenticator =
        Authenticator::Create({.token_file = path_, .reload_interval = milliseconds(5)});
    EXPECT_TRUE(authenticator.ok()) << authenticator.status();
    return *std::move(authenticator);
  }

  static std::string Tenant(const Authenticator& authenticator, std::string_view header) {
    const auto identity = authenticator.IdentifyByToken(header);
    return identity.ok() ? identity->tenant : engine::GetErrorDetails(identity.status()).reason;
  }

  static bool Becomes(const Authenticator& authenticator, const char* header, const char* tenant) {
    for (int i = 0; i < 2000; ++i) {
      if (Tenant(authenticator, header) == tenant) return true;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  }

  const std::string path_ = spotd::testing::TemporaryDirectory() + "/tokens";
};

TEST_F(AuthenticatorTest, ReadsTheHeader) {
  Write(std::string(kAlpha) + " a\n");
  const auto authenticator = Create();
  EXPECT_EQ(Tenant(*authenticator, "Bearer alpha"), "a");
  EXPECT_EQ(Tenant(*authenticator, "bearer alpha"), "a");
  EXPECT_EQ(Tenant(*authenticator, "Bearer beta"), "TOKEN_INVALID");
  EXPECT_EQ(Tenant(*authenticator, "Bearer "), "TOKEN_INVALID");
  EXPECT_EQ(Tenant(*authenticator, "Bearer  alpha"), "TOKEN_INVALID");
  for (const char* none : {"", "alpha", "Basic alpha", "Bearer"}) {
    EXPECT_EQ(Tenant(*authenticator, none), "TOKEN_MISSING") << none;
  }
  EXPECT_EQ(authenticator->IdentifyByToken("Bearer x").status().code(),
            absl::StatusCode::kUnauthenticated);
}

TEST_F(AuthenticatorTest, ReloadsAndKeepsTheOldTokensWhenTheNewFileIsBad) {
  Write(std::string(kAlpha) + " a\n");
  const auto authenticator = Create();
  Write(std::string(kBeta) + " b\n");
  EXPECT_TRUE(Becomes(*authenticator, "Bearer beta", "b"));
  EXPECT_EQ(Tenant(*authenticator, "Bearer alpha"), "TOKEN_INVALID") << "it was taken away";
  Write("nonsense\n");
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(Tenant(*authenticator, "Bearer beta"), "b");
  Write(std::string(kAlpha) + " again\n");
  EXPECT_TRUE(Becomes(*authenticator, "Bearer alpha", "again"));
}

TEST_F(AuthenticatorTest, ABadFileAtTheStartIsRefused) {
  Write("nonsense\n");
  EXPECT_FALSE(Authenticator::Create({.token_file = path_}).ok());
  EXPECT_FALSE(Authenticator::Create({.token_file = path_ + ".none"}).ok());
}

}  // namespace
}  // namespace spotd::server
