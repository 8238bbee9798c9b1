// What the registry does while others look, or time goes on.
#include "runtime/engine/session_registry.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

class SessionRegistryTest : public ::testing::Test {
 protected:
  SessionRegistryTest() {
    kvstore::KvLayout layout;
    layout.layers = 1;
    layout.kv_heads = 1;
    layout.head_dim = 8;
    store_ = *kvstore::KvStore::Create(backend_.get(), layout, 16 * layout.BytesPerBlock());
    SessionLimits limits;
    limits.now_ms = [this] { return now_ += tick_; };
    registry_ = std::make_unique<SessionRegistry>(store_.get(), &metrics_, limits);
  }

  // A session of a message, the tokens [0, 10), and a reply, [10, 20).
  SessionRef NewSession(const SessionOptions& options = {}) {
    const std::string id = registry_->Create(options, {})->id;
    SessionClaim claim = *registry_->Claim({id}, "");
    claim->tokens.resize(20);
    std::iota(claim->tokens.begin(), claim->tokens.end(), 'a');
    const text::ChatMessage message = {"user", "abcdefghij"};
    claim->conversation.AddMessages({&message, 1}, "abcdefghij", {0, 10});
    claim->conversation.AddReply("klmnopqrst", "klmnopqrst", {10, 20}, true);
    return {id};
  }

  int64_t now_ = 1'000'000;
  int64_t tick_ = 0;  // by how much the clock goes on each time somebody looks at it
  Metrics metrics_;
  std::unique_ptr<kernels::Backend> backend_ = kernels::CreateRefBackend();
  std::unique_ptr<kvstore::KvStore> store_;
  std::unique_ptr<SessionRegistry> registry_;
};

TEST_F(SessionRegistryTest, ASessionThatExpiresWhileItIsForkedIsForkedOrNotFound) {
  for (int64_t left = 1; left <= 40; ++left) {
    tick_ = 0;
    SessionOptions options;
    options.expire_time_ms = now_ + left;
    const SessionRef ref = NewSession(options);
    tick_ = 2;
    bool posted = false;
    const auto fork = registry_->Fork(ref, {}, [&](auto from, auto to) {
      posted = true;
      EXPECT_EQ(from->id, ref.id);
      EXPECT_EQ(to->tokens, from->tokens);
    });
    EXPECT_EQ(fork.ok(), posted);
    if (!posted) {
      EXPECT_EQ(Reason(fork.status()), reason::kSessionNotFound);
    }
  }
}

}  // namespace
}  // namespace spotd::engine
