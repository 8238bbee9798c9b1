// What the registry does while others look, or time goes on.
#include "runtime/engine/session_registry.h"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <numeric>
#include <utility>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

// Tells when somebody makes text of tokens.
class HookedTokenizer : public text::Tokenizer {
 public:
  HookedTokenizer() : plain_(*Tokenizer::Create(testing::TinyTokenizerData())) {}

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const text::EncodeOptions& options) const override {
    return plain_->Encode(text, options);
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     bool keep_special) const override {
    return plain_->Decode(ids, keep_special);
  }
  std::string_view TokenBytes(int32_t id) const override {
    if (on_text) std::exchange(on_text, nullptr)();
    return plain_->TokenBytes(id);
  }
  bool IsSpecial(int32_t id) const override { return plain_->IsSpecial(id); }
  int32_t vocab_size() const override { return plain_->vocab_size(); }
  int32_t bos() const override { return plain_->bos(); }
  int32_t eos() const override { return plain_->eos(); }
  std::string TokenText(int32_t id) const override { return plain_->TokenText(id); }

  mutable std::function<void()> on_text;  // called once

 private:
  const std::unique_ptr<Tokenizer> plain_;
};

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

TEST_F(SessionRegistryTest, OthersNeedNotWaitWhileARewindMakesText) {
  const SessionRef ref = NewSession();
  HookedTokenizer tokenizer;
  std::future<void> others;
  tokenizer.on_text = [&] {
    others = std::async(std::launch::async, [&] {
      EXPECT_TRUE(registry_->Create({}, {}).ok());
      const auto info = registry_->Get(ref);
      ASSERT_TRUE(info.ok());
      EXPECT_TRUE(info->busy);
      EXPECT_EQ(info->tokens, 20) << "half a rewind can be seen";
      EXPECT_EQ(Reason(registry_->Claim(ref, "").status()), reason::kSessionBusy);
      EXPECT_EQ(Reason(registry_->Fork(ref, {}, [](auto, auto) {}).status()), reason::kSessionBusy);
    });
    EXPECT_EQ(others.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  };
  ASSERT_TRUE(registry_->Rewind(ref, 15, tokenizer, [](auto) {}).ok());
  ASSERT_TRUE(others.valid()) << "no text was made";
  others.get();
  const auto info = registry_->Get(ref);
  EXPECT_FALSE(info->busy);
  EXPECT_EQ(info->tokens, 15);
  const SessionClaim claim = *registry_->Claim(ref, "");
  EXPECT_EQ(claim->tokens.size(), 15u);
  EXPECT_EQ(claim->conversation.Messages().back().content, "klmno");
}

TEST_F(SessionRegistryTest, ASessionMayBeRemovedWhileItIsRewound) {
  const SessionRef ref = NewSession();
  HookedTokenizer tokenizer;
  std::future<void> remover;
  tokenizer.on_text = [&] {
    remover = std::async(std::launch::async,
                         [&] { EXPECT_TRUE(registry_->Remove(ref, [](auto) {}).ok()); });
    EXPECT_EQ(remover.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  };
  EXPECT_TRUE(registry_->Rewind(ref, 15, tokenizer, [](auto) {}).ok());
  remover.get();
  EXPECT_EQ(Reason(registry_->Get(ref).status()), reason::kSessionNotFound);
  EXPECT_EQ(metrics_.session_tokens.load(), 0);
}

}  // namespace
}  // namespace spotd::engine
