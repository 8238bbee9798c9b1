// Decode under every policy: at full density it is dense decode, at equal density the oracle covers
// most, and what it reports is what it read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <tuple>

#include "runtime/model/transformer.h"
#include "tests/runtime/model/model_harness.h"

namespace spotd::model {
namespace {

using kernels::SelectorKeyFormat;

constexpr PolicyKind kSparseKinds[] = {PolicyKind::kDistilled, PolicyKind::kQuest,
                                       PolicyKind::kTopK, PolicyKind::kWindow, PolicyKind::kOracle};
constexpr int32_t kContext = 100;  // of the tiny model's 128: 7 blocks, the last partly filled

std::vector<int32_t> RandomTokens(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = 3 + static_cast<int32_t>(random() % 297);
  return tokens;
}

// A policy that reads everything, by its own rule.
Policy FullDensity(PolicyKind kind) {
  Policy policy;
  policy.kind = kind;
  policy.p_residual = 1.0f;
  policy.p_total = 1.0f;
  policy.fraction = 1.0f;
  policy.k_tokens = kind == PolicyKind::kTopK ? 1 << 20 : 0;
  policy.sink_tokens = 16;
  policy.recency_tokens = kind == PolicyKind::kWindow ? 1 << 20 : 16;
  policy.k_min_tokens = 0;
  policy.dense_below_tokens = 0;
  return policy;
}

// One that reads `tokens` tokens of the context, one block of sinks and one of recency included.
Policy FixedDensity(PolicyKind kind, int32_t tokens) {
  Policy policy;
  policy.kind = kind;
  policy.k_tokens = tokens;
  policy.sink_tokens = 16;
  policy.recency_tokens = 1;
  policy.k_min_tokens = 0;
  policy.dense_below_tokens = 0;
  return policy;
}

class TransformerPolicyTest
    : public ::testing::TestWithParam<std::tuple<const char*, SelectorKeyFormat, int32_t>> {
 protected:
  void SetUp() override {
    selector_.heads = 4;
    selector_.dim = 64;
    selector_.groups = std::get<2>(GetParam());
    HarnessOptions options;
    options.backend = std::get<0>(GetParam());
    options.format = std::get<1>(GetParam());
    options.selector = &selector_;
    options.limits.max_batch = 8;
    options.limits.max_prefill_chunk = 64;
    harness_ = std::make_unique<ModelHarness>(ModelPath("qwen3"), options);
    ASSERT_TRUE(harness_->ok()) << harness_->status();
    tokens_ = RandomTokens(kContext, 3);
  }

  // A sequence with all tokens but the last in the cache.
  kvstore::BlockTable Prefilled() {
    kvstore::BlockTable table = harness_->store().NewTable();
    harness_->Prefill(&table, std::span<const int32_t>(tokens_).first(kContext - 1), {33});
    return table;
  }
  std::vector<float> LastStep(const Policy& policy, DecodeResult* result = nullptr,
                              SelectionTrace* trace = nullptr) {
    kvstore::BlockTable table = Prefilled();
    return harness_->Decode(&table, std::span<const int32_t>(tokens_).last(1), policy, result,
                            trace);
  }

  // Whether each KV head has a list of its own.
  bool ChoosesApart(PolicyKind kind) const {
    const bool selector = kind == PolicyKind::kDistilled || kind == PolicyKind::kTopK;
    return kind == PolicyKind::kQuest || (selector && selector_.groups > 1);
  }

  SelectorConfig selector_;
  std::unique_ptr<ModelHarness> harness_;
  std::vector<int32_t> tokens_;
};

TEST_P(TransformerPolicyTest, FullDensityEqualsDense) {
  const std::vector<float> dense = LastStep(Policy{});
  for (const PolicyKind kind : kSparseKinds) {
    DecodeResult result;
    const std::vector<float> logits = LastStep(FullDensity(kind), &result);
    EXPECT_LT(RelativeError(logits, dense), 1e-5) << PolicyName(kind);
    EXPECT_FALSE(result.sparsity.dense);
    EXPECT_EQ(result.sparsity.blocks_attended, result.sparsity.blocks_visible);
    EXPECT_EQ(result.sparsity.selected_tokens, kContext);
    EXPECT_NEAR(result.sparsity.covered_mass, 1.0f, 1e-6f);
  }
}

TEST_P(TransformerPolicyTest, FullDensityEqualsDenseStepByStep) {
  const std::span<const int32_t> tokens = std::span<const int32_t>(tokens_).first(40);
  kvstore::BlockTable dense_table = harness_->store().NewTable();
  const std::vector<float> dense = harness_->Decode(&dense_table, tokens, Policy{});
  for (const PolicyKind kind : kSparseKinds) {
    kvstore::BlockTable table = harness_->store().NewTable();
    EXPECT_LT(RelativeError(harness_->Decode(&table, tokens, FullDensity(kind)), dense), 1e-5)
        << PolicyName(kind);
  }
}

TEST_P(TransformerPolicyTest, SparseStepsDiffer) {
  const std::vector<float> dense = LastStep(Policy{});
  for (const PolicyKind kind : kSparseKinds) {
    EXPECT_GT(RelativeError(LastStep(FixedDensity(kind, 48)), dense), 1e-6) << PolicyName(kind);
  }
}

TEST_P(TransformerPolicyTest, CountsWhatItReads) {
  const kvstore::KvLayout layout = harness_->store().layout();
  const int64_t layers = layout.layers;
  const int64_t token_bytes = static_cast<int64_t>(layout.KvBlockBytes()) / 16;
  for (const PolicyKind kind : kSparseKinds) {
    DecodeResult result;
    SelectionTrace trace;
    LastStep(FixedDensity(kind, 64), &result, &trace);
    const RowSparsity& sparsity = result.sparsity;
    const int64_t blocks = kind == PolicyKind::kWindow ? 2 : 4;
    // 99 tokens before this one fill 6 blocks and 3 places of the 7th, so its block has 4.
    const int64_t tokens = (blocks - 1) * 16 + 4;
    const std::map<PolicyKind, int64_t> scoring = {
        {PolicyKind::kDistilled, kContext * static_cast<int64_t>(layout.SelectorBlockBytes()) / 16},
        {PolicyKind::kTopK, kContext * static_cast<int64_t>(layout.SelectorBlockBytes()) / 16},
        {PolicyKind::kQuest, 7 * static_cast<int64_t>(layout.SummaryBlockBytes())},
        {PolicyKind::kWindow, 0},
        {PolicyKind::kOracle, kContext * token_bytes / 2}};
    EXPECT_EQ(sparsity.blocks_visible, layers * 7);
    EXPECT_EQ(sparsity.bytes_dense, layers * kContext * token_bytes);
    if (kind == PolicyKind::kDistilled) continue;  // its budget is not fixed
    EXPECT_EQ(sparsity.blocks_attended, layers * blocks) << PolicyName(kind);
    EXPECT_EQ(sparsity.selected_tokens, tokens) << PolicyName(kind);
    EXPECT_EQ(sparsity.bytes_read, layers * (tokens * token_bytes + scoring.at(kind)))
        << PolicyName(kind);
    ASSERT_EQ(trace.blocks.size(), static_cast<size_t>(layers));
    for (const std::vector<int32_t>& list : trace.blocks) {
      // The lists of KV heads that choose apart are united.
      EXPECT_GE(static_cast<int64_t>(list.size()), blocks);
      EXPECT_TRUE(ChoosesApart(kind) || static_cast<int64_t>(list.size()) == blocks);
      EXPECT_TRUE(std::is_sorted(list.begin(), list.end()));
      EXPECT_EQ(list.front(), 0);
      EXPECT_EQ(list.back(), 6);
    }
  }
}

TEST_P(TransformerPolicyTest, AnOracleOfEachKvHeadCountsAsTheSharedOneDoes) {
  Policy policy = FixedDensity(PolicyKind::kOracle, 64);
  DecodeResult shared;
  const std::vector<float> shared_logits = LastStep(policy, &shared);
  policy.oracle_per_kv_head = true;
  DecodeResult apart;
  const std::vector<float> logits = LastStep(policy, &apart);
  EXPECT_EQ(apart.sparsity.blocks_attended, shared.sparsity.blocks_attended);
  EXPECT_EQ(apart.sparsity.bytes_read, shared.sparsity.bytes_read);
  EXPECT_GE(apart.sparsity.covered_mass, shared.sparsity.covered_mass - 1e-5f);
  EXPECT_GT(RelativeError(logits, shared_logits), 1e-6);
}

TEST_P(TransformerPolicyTest, DenseRowsCountEverything) {
  DecodeResult result;
  SelectionTrace trace;
  LastStep(Policy{}, &result, &trace);
  EXPECT_TRUE(result.sparsity.dense);
  EXPECT_EQ(result.sparsity.blocks_attended, result.sparsity.blocks_visible);
  EXPECT_EQ(result.sparsity.bytes_read, result.sparsity.bytes_dense);
  EXPECT_EQ(result.sparsity.selected_tokens, kContext);
  ASSERT_EQ(trace.blocks.size(), 2u);
  EXPECT_THAT(trace.blocks[1], ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST_P(TransformerPolicyTest, ShortContextsAreDense) {
  Policy policy = FixedDensity(PolicyKind::kQuest, 48);
  policy.dense_below_tokens = kContext;
  DecodeResult result;
  LastStep(policy, &result);
  EXPECT_TRUE(result.sparsity.dense);
  policy.dense_below_tokens = kContext - 1;
  LastStep(policy, &result);
  EXPECT_FALSE(result.sparsity.dense);
}

TEST_P(TransformerPolicyTest, NeighboursChangeNothing) {
  // Rows of all policies in one batch, in an order that sorting changes, against each row alone.
  const PolicyKind kinds[] = {PolicyKind::kOracle, PolicyKind::kFull,  PolicyKind::kWindow,
                              PolicyKind::kTopK,   PolicyKind::kQuest, PolicyKind::kDistilled,
                              PolicyKind::kFull,   PolicyKind::kQuest};
  std::vector<kvstore::BlockTable> tables;
  std::vector<DecodeRow> rows;
  for (size_t i = 0; i < std::size(kinds); ++i) {
    const size_t length = 60 + 5 * i;
    tables.push_back(harness_->store().NewTable());
    harness_->Prefill(&tables.back(), RandomTokens(length, 50 + i), {64});
    ASSERT_TRUE(harness_->store().Reserve(&tables.back(), 1).ok());
  }
  for (size_t i = 0; i < std::size(kinds); ++i) {
    rows.push_back(
        ModelHarness::Row(static_cast<int32_t>(10 + i), &tables[i], FixedDensity(kinds[i], 48)));
  }
  std::vector<DecodeResult> together(rows.size());
  std::vector<float> logits(rows.size() * harness_->vocab());
  ASSERT_TRUE(harness_->transformer().Decode(rows, together, logits).ok());
  for (size_t i = 0; i < rows.size(); ++i) {
    // Not committed: the step writes the same position again.
    DecodeResult alone;
    std::vector<float> row_logits(harness_->vocab());
    ASSERT_TRUE(harness_->transformer().Decode({&rows[i], 1}, {&alone, 1}, row_logits).ok());
    EXPECT_EQ(alone.token, together[i].token) << i;
    EXPECT_EQ(alone.logprob, together[i].logprob) << i;
    EXPECT_EQ(alone.sparsity.blocks_attended, together[i].sparsity.blocks_attended) << i;
    EXPECT_EQ(alone.sparsity.covered_mass, together[i].sparsity.covered_mass) << i;
    EXPECT_TRUE(std::equal(row_logits.begin(), row_logits.end(),
                           logits.begin() + static_cast<ptrdiff_t>(i * harness_->vocab())))
        << i;
  }
}

TEST_P(TransformerPolicyTest, SamplingInTheStepEqualsSamplingAfterIt) {
  kvstore::BlockTable table = Prefilled();
  ASSERT_TRUE(harness_->store().Reserve(&table, 1).ok());
  const kernels::TokenAdjustment adjustments[] = {{7, 2, 1, -3.0f}, {9, 0, 0, 4.0f}};
  DecodeRow row = ModelHarness::Row(11, &table, FixedDensity(PolicyKind::kTopK, 48));
  row.sampling.temperature = 0.9f;
  row.sampling.seed = 42;
  row.sampling.repetition_penalty = 1.2f;
  row.adjustments = adjustments;
  DecodeResult fused;
  DecodeResult separate;
  std::vector<float> logits(harness_->vocab());
  ASSERT_TRUE(harness_->transformer().Decode({&row, 1}, {&fused, 1}).ok());
  ASSERT_TRUE(harness_->transformer().Decode({&row, 1}, {&separate, 1}, logits).ok());
  EXPECT_EQ(fused.token, separate.token);
  EXPECT_EQ(fused.logprob, separate.logprob);
}

INSTANTIATE_TEST_SUITE_P(Backends, TransformerPolicyTest,
                         ::testing::Combine(::testing::Values("ref", "cpu"),
                                            ::testing::Values(SelectorKeyFormat::kBf16,
                                                              SelectorKeyFormat::kInt4,
                                                              SelectorKeyFormat::kFp4),
                                            ::testing::Values(1)));

// A selector that chooses for each of the model's two KV heads.
INSTANTIATE_TEST_SUITE_P(KvHeads, TransformerPolicyTest,
                         ::testing::Combine(::testing::Values("ref", "cpu"),
                                            ::testing::Values(SelectorKeyFormat::kInt4),
                                            ::testing::Values(2)));

TEST(TransformerErrorsTest, RefusesWhatItCannotRun) {
  HarnessOptions options;
  options.limits.max_batch = 2;
  options.limits.max_context = 64;
  ModelHarness harness(ModelPath("qwen2"), options);
  ASSERT_TRUE(harness.ok()) << harness.status();
  kvstore::BlockTable table = harness.store().NewTable();
  ASSERT_TRUE(harness.store().Reserve(&table, 80).ok());
  const auto decode = [&](int32_t token, const Policy& policy) {
    const DecodeRow row = ModelHarness::Row(token, &table, policy);
    DecodeResult result;
    return harness.transformer().Decode({&row, 1}, {&result, 1}).code();
  };
  EXPECT_EQ(decode(300, Policy{}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decode(-1, Policy{}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decode(5, FixedDensity(PolicyKind::kTopK, 48)), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(decode(5, Policy{}), absl::StatusCode::kOk);
  const std::vector<int32_t> tokens = RandomTokens(65, 1);
  EXPECT_EQ(harness.transformer().Prefill({tokens, &table}, {}).code(),
            absl::StatusCode::kOutOfRange);
  const std::vector<int32_t> bad = {1, 2, 300};
  EXPECT_EQ(harness.transformer().Prefill({bad, &table}, {}).code(),
            absl::StatusCode::kInvalidArgument);
  harness.store().Commit(&table, 64);
  EXPECT_EQ(decode(5, Policy{}), absl::StatusCode::kOutOfRange);
}

TEST(TransformerErrorsTest, RefusesLimitsOutOfRange) {
  const auto code = [](auto change) {
    HarnessOptions options;
    change(&options.limits);
    return ModelHarness(ModelPath("qwen2"), options).status().code();
  };
  const auto bad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](Limits* l) { l->max_batch = 0; }), bad);
  EXPECT_EQ(code([](Limits* l) { l->max_batch = 257; }), bad);
  EXPECT_EQ(code([](Limits* l) { l->max_prefill_chunk = 0; }), bad);
  EXPECT_EQ(code([](Limits* l) { l->max_context = 129; }), bad);
  EXPECT_EQ(code([](Limits* l) { l->block_tokens = 15; }), bad);
  EXPECT_EQ(code([](Limits* l) { l->block_tokens = 32; }), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace spotd::model
