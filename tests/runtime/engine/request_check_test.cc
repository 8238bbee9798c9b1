#include "runtime/engine/request_check.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"

namespace spotd::engine {
namespace {

constexpr int32_t kVocab = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(CheckSamplingTest, TheDefaultsAreValid) {
  EXPECT_TRUE(CheckSampling(Sampling(), kVocab).ok());
}

TEST(CheckSamplingTest, RefusesByName) {
  const struct {
    const char* field;
    std::function<void(Sampling*)> change;
  } kRows[] = {
      {"sampling.temperature", [](Sampling* s) { s->params.temperature = -0.1f; }},
      {"sampling.temperature", [](Sampling* s) { s->params.temperature = 100.5f; }},
      {"sampling.temperature", [](Sampling* s) { s->params.temperature = kNan; }},
      {"sampling.top_k", [](Sampling* s) { s->params.top_k = -1; }},
      {"sampling.top_p", [](Sampling* s) { s->params.top_p = 0; }},
      {"sampling.top_p", [](Sampling* s) { s->params.top_p = 1.01f; }},
      {"sampling.top_p", [](Sampling* s) { s->params.top_p = kNan; }},
      {"sampling.min_p", [](Sampling* s) { s->params.min_p = -0.5f; }},
      {"sampling.min_p", [](Sampling* s) { s->params.min_p = 1.5f; }},
      {"sampling.min_p", [](Sampling* s) { s->params.min_p = kNan; }},
      {"sampling.repetition_penalty", [](Sampling* s) { s->params.repetition_penalty = 0; }},
      {"sampling.repetition_penalty", [](Sampling* s) { s->params.repetition_penalty = kNan; }},
      {"sampling.repetition_penalty",
       [](Sampling* s) { s->params.repetition_penalty = kInfinity; }},
      {"sampling.presence_penalty", [](Sampling* s) { s->params.presence_penalty = kInfinity; }},
      {"sampling.frequency_penalty", [](Sampling* s) { s->params.frequency_penalty = -kNan; }},
      {"sampling.max_tokens", [](Sampling* s) { s->max_tokens = -1; }},
      {"sampling.stop", [](Sampling* s) { s->stop_strings = {""}; }},
      {"sampling.stop", [](Sampling* s) { s->stop_strings = {std::string(257, 'x')}; }},
      {"sampling.stop", [](Sampling* s) { s->stop_strings.resize(17, "x"); }},
      {"sampling.stop", [](Sampling* s) { s->stop_strings = {"\xff"}; }},
      {"sampling.stop_token_ids", [](Sampling* s) { s->stop_tokens = {kVocab}; }},
      {"sampling.stop_token_ids", [](Sampling* s) { s->stop_tokens = {-1}; }},
      {"sampling.stop_token_ids", [](Sampling* s) { s->stop_tokens.resize(65, 1); }},
  };
  for (const auto& row : kRows) {
    Sampling sampling;
    row.change(&sampling);
    const absl::Status status = CheckSampling(sampling, kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.field;
    EXPECT_EQ(GetErrorDetails(status).field, row.field) << status;
  }
}

TEST(CheckPolicyTest, NamesTheField) {
  model::Policy policy;
  policy.p_residual = kNan;
  const absl::Status status = CheckPolicy(policy, true);
  EXPECT_EQ(GetErrorDetails(status).reason, reason::kInvalidPolicy);
  EXPECT_EQ(GetErrorDetails(status).field, "policy.p_residual");
}

TEST(CheckPolicyTest, SomePoliciesNeedASelector) {
  using model::PolicyKind;
  for (const PolicyKind kind : {PolicyKind::kDistilled, PolicyKind::kTopK}) {
    const model::Policy policy = {.kind = kind};
    EXPECT_TRUE(CheckPolicy(policy, true).ok());
    const absl::Status status = CheckPolicy(policy, false);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(GetErrorDetails(status).reason, reason::kSelectorMissing);
  }
  EXPECT_TRUE(CheckPolicy({.kind = PolicyKind::kQuest}, false).ok());
}

TEST(CheckTest, LimitsComeAsMetadata) {
  const absl::Status status = CheckContext(5000, 4096);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(GetErrorDetails(status).reason, reason::kContextOverflow);
  EXPECT_EQ(GetErrorDetails(status).metadata.at("limit"), "4096");
  EXPECT_EQ(GetErrorDetails(status).metadata.at("got"), "5000");
  EXPECT_TRUE(CheckContext(4096, 4096).ok());
}

TEST(CheckTest, BytesOfAllInputsCount) {
  const std::vector<Input> inputs = {TextInput{"12345"}, TokenInput{1, 2, 3},
                                     MessageInput{{"user", "123456"}}};
  EXPECT_TRUE(CheckPromptBytes(inputs, 15).ok());
  EXPECT_EQ(GetErrorDetails(CheckPromptBytes(inputs, 14)).reason, reason::kPromptTooLong);
}

TEST(CheckTest, NamesAreShortUtf8) {
  EXPECT_TRUE(CheckDisplayName(std::string(256, 'x')).ok());
  EXPECT_FALSE(CheckDisplayName(std::string(257, 'x')).ok());
  EXPECT_EQ(GetErrorDetails(CheckDisplayName("\xc3")).reason, reason::kInvalidUtf8);
}

TEST(CheckTest, ReportBlocks) {
  EXPECT_TRUE(CheckReportBlocks(1024).ok());
  EXPECT_FALSE(CheckReportBlocks(1025).ok());
  EXPECT_FALSE(CheckReportBlocks(-1).ok());
}

}  // namespace
}  // namespace spotd::engine
