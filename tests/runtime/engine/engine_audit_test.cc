// Audits: what sparse decoding loses is measured, told, and acted upon.
#include <gtest/gtest.h>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

std::unique_ptr<Engine> MakeAudited(int every_steps, double floor = 0) {
  TinyEngineOptions options;
  options.engine.audit.every_steps = every_steps;
  options.engine.audit.floor = floor;
  return MakeTinyEngine(std::move(options));
}

model::Policy Sparse(model::PolicyKind kind) {
  model::Policy policy;
  policy.kind = kind;
  policy.sink_tokens = 16;
  policy.recency_tokens = 16;
  policy.k_min_tokens = 0;
  policy.k_tokens = 64;
  policy.dense_below_tokens = 0;
  return policy;
}

GenerateRequest AskSparsely(const std::string& session, model::PolicyKind kind, int32_t tokens) {
  GenerateRequest request = Ask(session, session.empty() ? Words(300) : "", tokens);
  request.policy = Sparse(kind);
  return request;
}

// The oracle policy's own mass is the true mass of what it chose, mean over the two layers: the
// audit, which sees one layer a step and reckons from the attention's own sums, must agree.
TEST(EngineAuditTest, RecalledMassIsTheTrueMass) {
  auto engine = MakeAudited(1);
  GenerateRequest request = AskSparsely("", model::PolicyKind::kOracle, 1);
  const auto first_layer = Complete(engine.get(), request).second;
  const auto second_layer = Complete(engine.get(), request).second;
  ASSERT_TRUE(first_layer.ok() && second_layer.ok());
  EXPECT_EQ(first_layer->sparsity.audited_steps, 1);
  const double mean =
      (first_layer->sparsity.mean_recalled_mass + second_layer->sparsity.mean_recalled_mass) / 2;
  EXPECT_LT(mean, 0.99) << "nothing was lost: the test is too mild";
  EXPECT_NEAR(mean, first_layer->sparsity.mean_covered_mass, 2e-3);
  EXPECT_GT(first_layer->sparsity.mean_output_error, 0);
}

TEST(EngineAuditTest, WatchingChangesNothing) {
  auto audited = MakeAudited(1);
  auto plain = MakeAudited(0);
  for (const auto kind : {model::PolicyKind::kDistilled, model::PolicyKind::kQuest,
                          model::PolicyKind::kWindow, model::PolicyKind::kFull}) {
    auto [sink, result] = Complete(audited.get(), AskSparsely("", kind, 10));
    auto [plain_sink, plain_result] = Complete(plain.get(), AskSparsely("", kind, 10));
    EXPECT_EQ(sink->tokens(), plain_sink->tokens());
    EXPECT_EQ(sink->logprobs(), plain_sink->logprobs());
    EXPECT_EQ(plain_result->sparsity.audited_steps, 0);
    EXPECT_EQ(result->sparsity.audited_steps, kind == model::PolicyKind::kFull ? 0 : 10);
  }
  EXPECT_EQ(audited->metrics().audit_fallbacks.load(), 0u);
}

TEST(EngineAuditTest, OneStepInSoMany) {
  auto engine = MakeAudited(4);
  const auto result =
      Complete(engine.get(), AskSparsely("", model::PolicyKind::kWindow, 12)).second;
  EXPECT_EQ(result->sparsity.audited_steps, 3);
}

// Rows leave a step sorted by how they choose; each must get its own finding.
TEST(EngineAuditTest, NeighboursAreToldApart) {
  auto engine = MakeAudited(1);
  const auto alone = [&](model::PolicyKind kind) {
    return Complete(engine.get(), AskSparsely("", kind, 8)).second->sparsity;
  };
  // An even number of steps: both layers as often.
  const RequestSparsity window = alone(model::PolicyKind::kWindow);
  const RequestSparsity oracle = alone(model::PolicyKind::kOracle);
  ASSERT_GT(oracle.mean_recalled_mass, window.mean_recalled_mass + 0.01);
  Call first = Start(engine.get(), AskSparsely("", model::PolicyKind::kOracle, 8));
  Call dense = Start(engine.get(), AskSparsely("", model::PolicyKind::kFull, 8));
  Call second = Start(engine.get(), AskSparsely("", model::PolicyKind::kWindow, 8));
  const auto first_result = first.sink->Wait();
  const auto second_result = second.sink->Wait();
  ASSERT_TRUE(dense.sink->Wait().ok());
  EXPECT_GT(first_result->sparsity.mean_recalled_mass,
            second_result->sparsity.mean_recalled_mass + 0.01);
}

TEST(EngineAuditTest, ASessionUnderTheFloorGoesDenseAndSaysSo) {
  auto engine = MakeAudited(1, 0.999);
  const std::string id = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), id, Words(300)).ok());
  const auto first = Complete(engine.get(), AskSparsely(id, model::PolicyKind::kWindow, 8)).second;
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(first->sparsity.dense_by_audit);
  EXPECT_EQ(first->sparsity.audited_steps, 3) << "judged by three";
  EXPECT_EQ(first->sparsity.dense_steps, 5) << "dense from the step after";
  EXPECT_EQ(first->policy, model::PolicyKind::kWindow) << "what was asked for";
  const auto second = Complete(engine.get(), AskSparsely(id, model::PolicyKind::kWindow, 4)).second;
  EXPECT_TRUE(second->sparsity.dense_by_audit);
  EXPECT_EQ(second->sparsity.dense_steps, 4);
  const PolicyMetrics& counts =
      engine->metrics().by_policy[static_cast<size_t>(model::PolicyKind::kWindow)];
  EXPECT_EQ(counts.dense_steps_audit.load(), 9u);
  EXPECT_EQ(engine->metrics().audit_fallbacks.load(), 1u);
  // Another session is judged by itself.
  const std::string other = NewSession(engine.get());
  ASSERT_TRUE(AppendText(engine.get(), other, Words(300)).ok());
  EXPECT_FALSE(Complete(engine.get(), AskSparsely(other, model::PolicyKind::kFull, 8))
                   .second->sparsity.dense_by_audit);
  EXPECT_TRUE(Complete(engine.get(),
                       AskSparsely(engine->ForkSession(id, {})->id, model::PolicyKind::kWindow, 1))
                  .second->sparsity.dense_by_audit)
      << "a fork has its parent's history";
}

}  // namespace
}  // namespace spotd::engine
