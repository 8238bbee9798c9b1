// The oracle is what its name says: at equal density, the blocks it chooses hold at least as much
// of the true attention mass as those of any other policy, in every layer of every step.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/budget_rule.h"
#include "kernels/forwarding_backend.h"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

// Weighs every choice of a decode step by the true attention mass, and beside it the best choice of
// as many blocks with the same reserved ones. Batches of one row, on host memory.
class MassProbe : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  void Attend(const kernels::AttendArgs& args) override {
    if (args.selected != nullptr) Weigh(args);
    ForwardingBackend::Attend(args);
  }

  double chosen_mass() const { return chosen_ / choices_; }
  double best_mass() const { return best_ / choices_; }
  double worst_excess() const { return worst_excess_; }  // of a choice over the best
  int choices() const { return choices_; }
  void Reset(const kernels::BudgetRule& rule) {
    rule_ = rule;
    chosen_ = best_ = worst_excess_ = 0;
    choices_ = 0;
  }

 private:
  void Weigh(const kernels::AttendArgs& args) {
    const int32_t kv_len = args.batch.kv_len[0];
    const int32_t block_tokens = args.layer.block_tokens;
    const auto blocks = static_cast<size_t>((kv_len + block_tokens - 1) / block_tokens);
    std::vector<float> lse(static_cast<size_t>(args.batch.table_stride));
    inner().OracleScore({args.batch, args.layer, args.q_heads, args.scale, args.q, lse.data(),
                         args.batch.table_stride});
    std::vector<int32_t> best(blocks);
    std::vector<uint32_t> scratch(blocks);
    for (int32_t group = 0; group < args.groups; ++group) {
      const int32_t* list = args.selected + group * args.selected_stride;
      const double mass = Mass(lse, blocks, {list, static_cast<size_t>(args.counts[group])});
      kernels::BudgetRule rule = rule_;
      rule.kind = kernels::BudgetKind::kFixedTokens;
      rule.k_tokens = args.counts[group] * block_tokens;
      const kernels::BudgetChoice choice = kernels::ChooseBlocks(
          rule, kv_len, block_tokens, lse.data(), best.data(), scratch.data());
      EXPECT_EQ(choice.count, args.counts[group]);
      const double best_mass = Mass(lse, blocks, {best.data(), static_cast<size_t>(choice.count)});
      chosen_ += mass;
      best_ += best_mass;
      worst_excess_ = std::max(worst_excess_, mass - best_mass);
      ++choices_;
    }
  }

  static double Mass(const std::vector<float>& lse, size_t blocks, std::span<const int32_t> list) {
    double all = 0;
    for (size_t b = 0; b < blocks; ++b) all += std::exp(static_cast<double>(lse[b]));
    double chosen = 0;
    for (const int32_t b : list) {
      chosen += std::exp(static_cast<double>(lse[static_cast<size_t>(b)]));
    }
    return chosen / all;
  }

  kernels::BudgetRule rule_ = {};
  double chosen_ = 0;
  double best_ = 0;
  double worst_excess_ = 0;
  int choices_ = 0;
};

struct Setup {
  std::string name;
  std::string model;  // below tests/data/models; empty: named by SPOTD_TEST_MODEL
  int32_t context;
  int32_t k_tokens;
};

class OracleMassTest : public ::testing::TestWithParam<Setup> {
 protected:
  void SetUp() override {
    std::string path = ModelPath(GetParam().model);
    if (GetParam().model.empty()) {
      const char* variable = std::getenv("SPOTD_TEST_MODEL");
      if (variable == nullptr) GTEST_SKIP() << "SPOTD_TEST_MODEL does not name a model file";
      path = variable;
    }
    HarnessOptions options;
    options.backend = "cpu";
    options.wrap = [this](std::unique_ptr<kernels::Backend> inner) {
      auto probe = std::make_unique<MassProbe>(std::move(inner));
      probe_ = probe.get();
      return probe;
    };
    options.selector = &selector_;
    options.limits.max_batch = 1;
    options.kv_tokens = 2048;
    harness_ = std::make_unique<ModelHarness>(path, options);
    ASSERT_TRUE(harness_->ok()) << harness_->status();
  }

  SelectorConfig selector_;
  MassProbe* probe_ = nullptr;
  std::unique_ptr<ModelHarness> harness_;
};

TEST_P(OracleMassTest, CoversAtLeastAsMuchAsAnyOther) {
  const int32_t vocab = harness_->transformer().config().vocab;
  std::vector<int32_t> tokens(static_cast<size_t>(GetParam().context));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((i * 7919 + i / 5 * 31) % static_cast<size_t>(vocab));
  }
  const std::span<const int32_t> all = tokens;
  kvstore::BlockTable table = harness_->store().NewTable();
  for (size_t done = 0; done + 1 < tokens.size();) {
    const size_t size = std::min<size_t>(tokens.size() - 1 - done, 64);
    ASSERT_TRUE(harness_->store().Reserve(&table, static_cast<int32_t>(size)).ok());
    ASSERT_TRUE(harness_->transformer().Prefill({all.subspan(done, size), &table}, {}).ok());
    harness_->store().Commit(&table, static_cast<int32_t>(size));
    done += size;
  }
  ASSERT_TRUE(harness_->store().Reserve(&table, 1).ok());
  for (const PolicyKind kind : {PolicyKind::kOracle, PolicyKind::kQuest, PolicyKind::kTopK,
                                PolicyKind::kWindow, PolicyKind::kDistilled}) {
    Policy policy;
    policy.kind = kind;
    policy.k_tokens = GetParam().k_tokens;
    policy.sink_tokens = 16;
    policy.recency_tokens = 1;
    policy.k_min_tokens = 0;
    policy.dense_below_tokens = 0;
    probe_->Reset(policy.Rule());
    const DecodeRow row = ModelHarness::Row(tokens.back(), &table, policy);
    DecodeResult result;
    ASSERT_TRUE(harness_->transformer().Decode({&row, 1}, {&result, 1}).ok());
    std::cout << PolicyName(kind) << ": " << result.sparsity.selected_tokens
              << " tokens a layer hold " << probe_->chosen_mass() << " of the mass; the best hold "
              << probe_->best_mass() << "\n";
    const int groups = kind == PolicyKind::kQuest ? harness_->transformer().config().kv_heads : 1;
    EXPECT_EQ(probe_->choices(), harness_->transformer().config().layers * groups);
    EXPECT_LE(probe_->worst_excess(), 1e-6) << PolicyName(kind);
    if (kind == PolicyKind::kOracle) {
      EXPECT_NEAR(probe_->chosen_mass(), probe_->best_mass(), 1e-6);
      EXPECT_NEAR(probe_->chosen_mass(), result.sparsity.covered_mass, 1e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, OracleMassTest,
                         ::testing::Values(Setup{"tiny_qwen3", "qwen3", 120, 64},
                                           Setup{"tiny_llama", "llama3", 120, 48},
                                           Setup{"SmolLM2", "", 1500, 256}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace spotd::model
