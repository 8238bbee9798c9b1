// However a session came to its tokens - appended in pieces, generated, forked, rewound, cancelled,
// dropped from memory and computed again - greedy decoding continues it as it continues a fresh
// session with the same tokens.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

// Operations of each test; SPOTD_PROPERTY_STEPS asks for a longer run (docs/fuzzing.md).
int Steps() {
  const char* steps = std::getenv("SPOTD_PROPERTY_STEPS");
  return steps == nullptr ? 150 : std::atoi(steps);
}

class SessionModel {
 public:
  SessionModel(uint64_t seed, int32_t kv_blocks) : random_(seed) {
    TinyEngineOptions options;
    options.seed = seed;
    options.selector = false;
    options.limits.max_context = 512;
    options.engine.kv_memory_bytes = static_cast<size_t>(kv_blocks) * 4352;
    options.engine.prefix_cache_share = 0.5;
    engine_ = MakeTinyEngine(std::move(options));
    TinyEngineOptions fresh;
    fresh.seed = seed;
    fresh.selector = false;
    fresh_ = MakeTinyEngine(std::move(fresh));
  }

  // At least `operations`; more, at most ten times as many, until the engine has taken KV back
  // `reclaims` times: where a cancellation strikes, and so how much KV there is, depends on timing.
  void Run(int operations, uint64_t reclaims = 0) {
    Add(NewSession(engine_.get()), {});
    const auto enough = [&] { return engine_->metrics().kv_reclaims.load() >= reclaims; };
    for (int i = 0; i < operations || (!enough() && i < 10 * operations); ++i) {
      SCOPED_TRACE(i);
      Operate();
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_TRUE(enough());
    EXPECT_GT(compared_, operations / 10);
    for (const auto& [id, tokens] : sessions_) EXPECT_TRUE(engine_->DeleteSession(id).ok());
    EXPECT_EQ(engine_->metrics().kv_blocks_used.load(), 0);
  }

 private:
  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  void Add(const std::string& id, const std::vector<int32_t>& tokens) { sessions_[id] = tokens; }

  void Operate() {
    auto it = sessions_.begin();
    std::advance(it, Uniform(0, static_cast<int>(sessions_.size()) - 1));
    const std::string id = it->first;
    std::vector<int32_t>* tokens = &it->second;
    switch (Uniform(0, 7)) {
      case 0:
        if (sessions_.size() < 6) Fork(id, *tokens);
        break;
      case 1:
        Rewind(id, tokens);
        break;
      case 2:
      case 3:
        Append(id, tokens);
        break;
      case 4:
        Cancelled(id, tokens);
        break;
      case 5:
        if (sessions_.size() > 1 && Uniform(0, 3) == 0) {
          ASSERT_TRUE(engine_->DeleteSession(id).ok());
          sessions_.erase(id);
          return;
        }
        [[fallthrough]];
      default:
        Compare(id, tokens);
    }
    const SessionInfo info = *engine_->GetSession(id);
    ASSERT_EQ(info.tokens, static_cast<int32_t>(sessions_[id].size()));
    ASSERT_LE(info.cached_tokens, std::max(info.tokens - 1, 0));
  }

  void Fork(const std::string& id, const std::vector<int32_t>& tokens) {
    const auto fork = engine_->ForkSession(id, {});
    ASSERT_TRUE(fork.ok()) << fork.status();
    Add(fork->id, tokens);
  }

  void Rewind(const std::string& id, std::vector<int32_t>* tokens) {
    const int keep = Uniform(0, static_cast<int>(tokens->size()));
    ASSERT_TRUE(engine_->RewindSession(id, keep).ok());
    tokens->resize(keep);
  }

  std::vector<int32_t> Draw(int count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = Uniform(0, testing::kTinyVocab - 1);
    return tokens;
  }

  void Append(const std::string& id, std::vector<int32_t>* tokens) {
    const std::vector<int32_t> added = Draw(Uniform(1, 90));
    const auto result = StartAppend(engine_.get(), id, {TokenInput(added)}).Wait();
    if (tokens->size() + added.size() > 400) {  // keep room: forget instead of growing for ever
      if (result.ok()) tokens->insert(tokens->end(), added.begin(), added.end());
      return Rewind(id, tokens);
    }
    ASSERT_TRUE(result.ok()) << result.status();
    tokens->insert(tokens->end(), added.begin(), added.end());
  }

  // A request that is cancelled somewhere: the session keeps all of prompt and delivered tokens, or
  // nothing.
  void Cancelled(const std::string& id, std::vector<int32_t>* tokens) {
    const std::vector<int32_t> added = Draw(Uniform(1, 60));
    GenerateRequest request = Ask(id, "", 200);
    request.prompt = {TokenInput(added)};
    Call call = Start(engine_.get(), request);
    if (Uniform(0, 1) == 0) call.sink->WaitForTokens(Uniform(1, 3));
    call.cancel->Cancel();
    (void)call.sink->Wait();
    const std::vector<int32_t> delivered = call.sink->tokens();
    if (delivered.empty()) return;
    tokens->insert(tokens->end(), added.begin(), added.end());
    tokens->insert(tokens->end(), delivered.begin(), delivered.end());
  }

  void Compare(const std::string& id, std::vector<int32_t>* tokens) {
    if (tokens->empty() || tokens->size() > 480) return;
    const int count = Uniform(1, 12);
    const std::vector<int32_t> continued = Tokens(engine_.get(), Ask(id, "", count));
    GenerateRequest request = Ask("", "", count);
    request.prompt = {TokenInput(*tokens)};
    ASSERT_EQ(continued, Tokens(fresh_.get(), request));
    tokens->insert(tokens->end(), continued.begin(), continued.end());
    ++compared_;
  }

  std::mt19937_64 random_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Engine> fresh_;                         // never reuses anything
  std::map<std::string, std::vector<int32_t>> sessions_;  // what each must hold
  int compared_ = 0;
};

TEST(EnginePropertyTest, AnyHistoryContinuesLikeAFreshRun) {
  SessionModel(3, 1000).Run(Steps());
}

TEST(EnginePropertyTest, AlsoWhenKvIsDroppedAndComputedAgain) {
  SessionModel(4, 40).Run(Steps(), 6);
}

}  // namespace
}  // namespace spotd::engine
