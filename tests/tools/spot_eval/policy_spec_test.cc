#include "tools/spot_eval/policy_spec.h"

#include <gtest/gtest.h>

#include <string>

namespace spotd::eval {
namespace {

TEST(PolicySpecTest, SharesBecomeTokens) {
  const auto spec = ParsePolicySpec("topk@0.10", 8192);
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->policy.kind, model::PolicyKind::kTopK);
  EXPECT_EQ(spec->policy.k_tokens, 819);
  EXPECT_EQ(spec->policy.dense_below_tokens, 0);
  EXPECT_TRUE(spec->needs_selector());
}

TEST(PolicySpecTest, ATinyShareIsNotTheRuntimesDefault) {
  for (const char* text : {"topk@0.0001", "oracle@0.0001", "oracle-kv@0.0001"}) {
    EXPECT_EQ(ParsePolicySpec(text, 1024)->policy.Rule().k_tokens, 1) << text;
  }
}

TEST(PolicySpecTest, OracleHasTwoForms) {
  EXPECT_EQ(ParsePolicySpec("oracle@0.5", 1000)->policy.k_tokens, 500);
  const auto spec = ParsePolicySpec("oracle-p@0.7", 1000);
  EXPECT_EQ(spec->policy.kind, model::PolicyKind::kOracle);
  EXPECT_EQ(spec->policy.k_tokens, 0);
  EXPECT_FLOAT_EQ(spec->policy.p_residual, 0.7f);
}

TEST(PolicySpecTest, TheOracleMayChooseForEachKvHead) {
  EXPECT_FALSE(ParsePolicySpec("oracle@0.5", 1000)->policy.oracle_per_kv_head);
  const auto share = ParsePolicySpec("oracle-kv@0.5", 1000);
  ASSERT_TRUE(share.ok());
  EXPECT_EQ(share->policy.kind, model::PolicyKind::kOracle);
  EXPECT_EQ(share->policy.k_tokens, 500);
  EXPECT_TRUE(share->policy.oracle_per_kv_head);
  const auto p = ParsePolicySpec("oracle-kv-p@0.7", 1000);
  EXPECT_EQ(p->policy.k_tokens, 0);
  EXPECT_FLOAT_EQ(p->policy.p_residual, 0.7f);
  EXPECT_TRUE(p->policy.oracle_per_kv_head);
}

TEST(PolicySpecTest, TwilightHasTwoNumbers) {
  const auto spec = ParsePolicySpec("twilight@0.85:0.5", 8192);
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->policy.kind, model::PolicyKind::kQuest);
  ASSERT_TRUE(spec->twilight.has_value());
  EXPECT_FLOAT_EQ(spec->twilight->p, 0.85f);
  EXPECT_FLOAT_EQ(spec->twilight->superset, 0.5f);
  EXPECT_FLOAT_EQ(ParsePolicySpec("twilight@0.9", 8192)->twilight->superset, 0.25f);
  EXPECT_FALSE(spec->needs_selector());
}

TEST(PolicySpecTest, RefusesWhatItDoesNotKnow) {
  for (const char* text :
       {"", "quest", "window@0.1", "quest@0", "quest@1.5", "quest@x", "quest@0.1x", "twilight",
        "twilight@0.9:", "oracle-kv", "oracle-kvx@0.5", "twilight@2", "best@0.1", "topk@nan"}) {
    EXPECT_EQ(ParsePolicySpec(text, 8192).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

}  // namespace
}  // namespace spotd::eval
