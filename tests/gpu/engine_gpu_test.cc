// The engine on the GPU: what an audit sees there is what it sees on the reference, with the
// kernels that real head sizes use; and how the engine takes a device that fails.
#include <gtest/gtest.h>

#include <string>

#include "kernels/cuda/cuda_backend.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

constexpr int32_t kLayers = 2;

// Heads of 64 and 128 dims have kernels of their own; four query heads share a KV head.
TinyEngineOptions RealHeads(int32_t head_dim, int every_steps, double floor = 0) {
  TinyEngineOptions options;
  options.model.q_heads = 8;
  options.model.kv_heads = 2;
  options.model.head_dim = head_dim;
  options.model.rope.rotary_dim = head_dim;
  options.engine.kv_memory_bytes = 64u << 20;
  options.engine.audit.every_steps = every_steps;
  options.engine.audit.floor = floor;
  return options;
}

GenerateRequest AskSparsely(const std::string& session, model::PolicyKind kind, int32_t tokens) {
  GenerateRequest request = Ask(session, session.empty() ? Words(900) : "", tokens);
  model::Policy policy;
  policy.kind = kind;
  policy.sink_tokens = 16;
  policy.recency_tokens = 16;
  policy.k_min_tokens = 0;
  policy.k_tokens = 128;
  policy.dense_below_tokens = 0;
  request.policy = policy;
  return request;
}

struct Seen {
  double mass = 0;
  double believed = 0;  // by the policy
  double error = 0;
};

// Each layer is audited once: by the first step of a request each.
Seen MeanOfLayers(Engine* engine, model::PolicyKind kind) {
  Seen seen;
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    const auto result = Complete(engine, AskSparsely("", kind, 1)).second;
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return seen;
    EXPECT_EQ(result->sparsity.audited_steps, 1);
    seen.mass += result->sparsity.mean_recalled_mass / kLayers;
    seen.believed += result->sparsity.mean_covered_mass / kLayers;
    seen.error += result->sparsity.mean_output_error / kLayers;
  }
  return seen;
}

TEST(GpuAuditTest, SeesWhatTheReferenceSees) {
  for (const int32_t head_dim : {64, 128}) {
    auto gpu = MakeTinyEngine(RealHeads(head_dim, 1));
    TinyEngineOptions options = RealHeads(head_dim, 1);
    options.backend = kernels::CreateRefBackend();
    auto reference = MakeTinyEngine(std::move(options));
    // The window's blocks do not depend on rounding, so both attend to the same.
    const Seen here = MeanOfLayers(gpu.get(), model::PolicyKind::kWindow);
    const Seen exact = MeanOfLayers(reference.get(), model::PolicyKind::kWindow);
    EXPECT_LT(exact.mass, 0.9) << "nothing was lost: the test is too mild";
    EXPECT_NEAR(here.mass, exact.mass, 0.02) << "heads of " << head_dim;
    EXPECT_NEAR(here.error, exact.error, 0.02) << "heads of " << head_dim;
  }
}

// What the oracle chose by is the true mass, mean over the layers.
TEST(GpuAuditTest, AgreesWithTheOraclesOwnMass) {
  auto engine = MakeTinyEngine(RealHeads(64, 1));
  const Seen seen = MeanOfLayers(engine.get(), model::PolicyKind::kOracle);
  EXPECT_LT(seen.mass, 0.99) << "nothing was lost: the test is too mild";
  EXPECT_NEAR(seen.mass, seen.believed, 5e-3);
}

TEST(GpuAuditTest, WatchingChangesNothing) {
  auto audited = MakeTinyEngine(RealHeads(64, 1));
  auto plain = MakeTinyEngine(RealHeads(64, 0));
  for (const auto kind :
       {model::PolicyKind::kDistilled, model::PolicyKind::kQuest, model::PolicyKind::kWindow}) {
    auto [sink, result] = Complete(audited.get(), AskSparsely("", kind, 10));
    auto [plain_sink, plain_result] = Complete(plain.get(), AskSparsely("", kind, 10));
    EXPECT_EQ(sink->tokens(), plain_sink->tokens());
    EXPECT_EQ(sink->logprobs(), plain_sink->logprobs());
    EXPECT_EQ(result->sparsity.audited_steps, 10);
  }
}

TEST(GpuAuditTest, ASessionUnderItsFloorGoesDense) {
  auto engine = MakeTinyEngine(RealHeads(128, 1, 0.999));
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(900)).ok());
  const auto reply = Complete(engine.get(), AskSparsely(id, model::PolicyKind::kWindow, 8)).second;
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(reply->sparsity.dense_by_audit);
  EXPECT_EQ(reply->sparsity.dense_steps, 5) << "dense once three audits have judged";
}

TEST(GpuFaultTest, KvThatDoesNotFitSaysWhatDoes) {
  TinyEngineOptions options = RealHeads(64, 0);
  options.engine.kv_memory_bytes = size_t{4} << 40;
  const auto engine = testing::CreateTinyEngine(std::move(options));
  ASSERT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(engine.status().message().find("GiB on the GPU, which has"), std::string::npos)
      << engine.status();
}

// The device's memory is full for a while: that fails a request, and no more than it.
TEST(GpuFaultTest, WantOfMemoryPasses) {
  auto backend = kernels::CreateCudaBackend();
  ASSERT_TRUE(backend.ok());
  std::vector<kernels::Buffer> hoard;
  for (size_t bytes = size_t{64} << 30; bytes >= (size_t{1} << 20); bytes /= 2) {
    for (auto taken = (*backend)->Allocate(bytes); taken.ok(); taken = (*backend)->Allocate(bytes))
      hoard.push_back(*std::move(taken));
  }
  EXPECT_EQ((*backend)->Allocate(size_t{1} << 30).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE((*backend)->Synchronize().ok()) << "no fault of the device";
  hoard.clear();
  EXPECT_TRUE((*backend)->Allocate(size_t{1} << 30).ok());
}

TEST(GpuFaultTest, ALostDeviceFailsEveryRequestAndHangsNone) {
  auto hook = std::make_shared<StepHook>();
  TinyEngineOptions options = RealHeads(64, 0);
  options.backend = std::make_unique<HookedBackend>(testing::TinyBackend()(), hook);
  auto engine = MakeTinyEngine(std::move(options));
  Call running = Start(engine.get(), Ask("", Words(100), 1500));
  running.sink->WaitForTokens(2);
  hook->Set([] { return absl::UnavailableError("the GPU fell off the bus"); });
  EXPECT_EQ(running.sink->Wait().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine->metrics().device_lost.load());
  EXPECT_EQ(Reason(Complete(engine.get(), Ask("", "x", 1)).second.status()), reason::kDeviceLost);
}

}  // namespace
}  // namespace spotd::engine
