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

std::string FieldAndReason(const absl::Status& status) {
  const ErrorDetails details = GetErrorDetails(status);
  return details.field + " " + details.reason;
}

TEST(CheckTest, SessionOptions) {
  SessionOptions options;
  options.display_name = std::string(256, 'x');
  options.request_id = std::string(64, 'r');
  EXPECT_TRUE(CheckSessionOptions(options).ok());
  options.display_name += 'x';
  EXPECT_EQ(FieldAndReason(CheckSessionOptions(options)), "session.display_name INVALID_FIELD");
  options.display_name = "\xc3";
  EXPECT_EQ(FieldAndReason(CheckSessionOptions(options)), "session.display_name INVALID_UTF8");
  options.display_name = "";
  options.request_id += 'r';
  EXPECT_EQ(FieldAndReason(CheckSessionOptions(options)), "request_id INVALID_FIELD");
  options.request_id = "two words";
  EXPECT_EQ(FieldAndReason(CheckSessionOptions(options)), "request_id INVALID_FIELD");
  options.request_id = "";
  options.ttl = std::chrono::seconds(1);
  options.expire_time_ms = 1;
  EXPECT_EQ(FieldAndReason(CheckSessionOptions(options)), "session.ttl INVALID_FIELD");
}

TEST(CheckTest, Head) {
  RequestHead head;
  head.session_id = "s";
  head.priority = 100;
  head.request_id = "r";
  head.etag = "r1";
  EXPECT_TRUE(CheckHead(head).ok());
  head.priority = 101;
  EXPECT_EQ(FieldAndReason(CheckHead(head)), "priority INVALID_FIELD");
  head.priority = -101;
  EXPECT_EQ(FieldAndReason(CheckHead(head)), "priority INVALID_FIELD");
  head.priority = 0;
  head.session_id = "";
  EXPECT_EQ(FieldAndReason(CheckHead(head)), "request_id INVALID_FIELD") << "nobody remembers it";
  head.request_id = "";
  EXPECT_EQ(FieldAndReason(CheckHead(head)), "etag INVALID_FIELD");
}

TEST(CheckTest, Reports) {
  GenerateRequest request;
  request.report_blocks = 1024;
  request.top_logprobs = 20;
  request.candidates = 16;
  EXPECT_TRUE(CheckReports(request, 64).ok());
  EXPECT_EQ(FieldAndReason(CheckReports(request, 8)), "candidate_count INVALID_FIELD");
  request.candidates = 0;
  EXPECT_EQ(FieldAndReason(CheckReports(request, 64)), "candidate_count INVALID_FIELD");
  request.candidates = 1;
  request.report_blocks = 1025;
  EXPECT_EQ(FieldAndReason(CheckReports(request, 64)), "top_blocks INVALID_FIELD");
  request.report_blocks = 0;
  request.top_logprobs = 21;
  EXPECT_EQ(FieldAndReason(CheckReports(request, 64)), "top_logprobs INVALID_FIELD");
  request.top_logprobs = 0;
  request.record_selection = true;
  EXPECT_EQ(FieldAndReason(CheckReports(request, 64)), "record_trace INVALID_FIELD");
  request.session_id = "s";
  request.record_selection = false;
  request.candidates = 2;
  request.request_id = "r";
  EXPECT_EQ(FieldAndReason(CheckReports(request, 64)), "request_id INVALID_FIELD");
}

TEST(CheckTest, PolicyBounds) {
  model::Policy policy;
  policy.kind = model::PolicyKind::kQuest;
  EXPECT_TRUE(CheckPolicyBounds(policy, {}).ok());
  PolicyBounds bounds;
  bounds.allowed = {model::PolicyKind::kQuest};
  EXPECT_TRUE(CheckPolicyBounds(policy, bounds).ok());
  policy.kind = model::PolicyKind::kFull;
  const absl::Status kind = CheckPolicyBounds(policy, bounds);
  EXPECT_EQ(kind.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(FieldAndReason(kind), "policy.kind POLICY_NOT_ALLOWED");
  bounds = {.allowed = {}, .min_tokens = 600, .max_tokens = 0};
  EXPECT_EQ(FieldAndReason(CheckPolicyBounds(policy, bounds)),
            "policy.k_min_tokens POLICY_NOT_ALLOWED");
  bounds = {.allowed = {}, .min_tokens = 0, .max_tokens = 4096};
  EXPECT_EQ(FieldAndReason(CheckPolicyBounds(policy, bounds)),
            "policy.k_max_tokens POLICY_NOT_ALLOWED")
      << "no cap is more than any cap";
  policy.k_max_tokens = 4096;
  EXPECT_TRUE(CheckPolicyBounds(policy, bounds).ok());
}

TEST(CheckSamplingTest, LogitBias) {
  Sampling sampling;
  sampling.logit_bias = {{3, -100.0f}, {4, 100.0f}};
  EXPECT_TRUE(CheckSampling(sampling, 5).ok());
  EXPECT_EQ(FieldAndReason(CheckSampling(sampling, 4)), "sampling.logit_bias TOKEN_OUT_OF_RANGE");
  sampling.logit_bias = {{3, 101.0f}};
  EXPECT_EQ(FieldAndReason(CheckSampling(sampling, 5)), "sampling.logit_bias INVALID_SAMPLING");
  sampling.logit_bias.assign(1025, {3, 1.0f});
  EXPECT_EQ(FieldAndReason(CheckSampling(sampling, 5)), "sampling.logit_bias INVALID_SAMPLING");
}

}  // namespace
}  // namespace spotd::engine
