// A request's tokens do not depend on what else is in the batch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/runtime/engine/engine_fixture.h"

namespace spotd::engine {
namespace {

model::Policy Sparse(model::PolicyKind kind) {
  return {.kind = kind,
          .fraction = 0.25f,
          .k_tokens = kind == model::PolicyKind::kTopK ? 96 : 0,
          .sink_tokens = 16,
          .recency_tokens = 32,
          .k_min_tokens = 64,
          .dense_below_tokens = 0};
}

class EngineBatchTest : public ::testing::TestWithParam<model::PolicyKind> {};

TEST_P(EngineBatchTest, NeighboursDoNotMatter) {
  auto engine = MakeTinyEngine();
  GenerateRequest request = Ask("", Words(250), 40);
  request.policy = Sparse(GetParam());
  request.sampling.params.temperature = 0.8f;
  request.sampling.params.top_k = 50;
  request.sampling.params.top_p = 0.95f;
  request.sampling.params.repetition_penalty = 1.1f;
  request.sampling.seed = 42;
  auto [alone, result] = Complete(engine.get(), request);
  ASSERT_TRUE(result.ok()) << result.status();

  std::mt19937 random(9);
  for (int round = 0; round < 3; ++round) {
    std::vector<Call> neighbours;
    Call call;
    for (int i = 0; i < 8; ++i) {
      if (i == round * 3) {
        call = Start(engine.get(), request);
      } else {
        GenerateRequest neighbour =
            Ask("", Words(1 + static_cast<int>(random() % 300), random()), 1 + random() % 60);
        neighbour.sampling.params.temperature = 1;
        neighbour.policy = Sparse(static_cast<model::PolicyKind>(random() % 6));
        neighbours.push_back(Start(engine.get(), neighbour));
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    }
    ASSERT_TRUE(call.sink->Wait().ok());
    EXPECT_EQ(call.sink->tokens(), alone->tokens());
    EXPECT_EQ(call.sink->logprobs(), alone->logprobs());
    EXPECT_EQ(call.sink->text(), alone->text());
    for (Call& neighbour : neighbours) EXPECT_TRUE(neighbour.sink->Wait().ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, EngineBatchTest,
                         ::testing::Values(model::PolicyKind::kFull, model::PolicyKind::kDistilled,
                                           model::PolicyKind::kQuest, model::PolicyKind::kTopK),
                         [](const auto& param_info) {
                           return std::string(model::PolicyName(param_info.param));
                         });

TEST(EngineContinuousBatchTest, RepliesGrowTogetherAndALongPromptStallsNobody) {
  GatedEngine gated;
  Engine* engine = gated.engine.get();
  Call first = Start(engine, Ask("", "abc", 100));
  Call second = Start(engine, Ask("", "xyz", 100));
  gated.gate->AwaitArrival(1);
  gated.gate->LetPass(6);
  gated.gate->AwaitArrival(7);  // in a step that was planned without the long prompt
  // 20 chunks of prefill beside them.
  Call longer = Start(engine, Ask("", Words(640), 5));
  const size_t before = first.sink->tokens().size();
  gated.gate->LetPass(20);
  longer.sink->WaitForProgress(9 * 32);
  EXPECT_GE(first.sink->tokens().size(), before + 8);
  EXPECT_GE(second.sink->tokens().size(), before + 7);
  EXPECT_TRUE(longer.sink->tokens().empty());
  gated.gate->Open();
  for (Call* call : {&first, &second, &longer}) EXPECT_TRUE(call->sink->Wait().ok());
}

TEST(EngineContinuousBatchTest, RunsAreBoundedAndTheRestWaitsInOrder) {
  TinyEngineOptions options;
  options.engine.max_running = 2;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(Start(engine, Ask("", "abc", 10)));
  gated.gate->LetPass(4);
  calls[1].sink->WaitForTokens(1);
  EXPECT_EQ(engine->metrics().requests_running.load(), 2);
  EXPECT_EQ(engine->metrics().requests_waiting.load(), 3);
  EXPECT_TRUE(calls[2].sink->progress().empty());
  gated.gate->Open();
  for (Call& call : calls) EXPECT_TRUE(call.sink->Wait().ok());
  EXPECT_TRUE(BecomesIdle(*engine));
}

// A tokenizer may name more tokens than the model has rows for: a checkpoint whose vocabulary was
// extended without its embedding.
TEST(EngineBatchTest, ATokenThatTheModelHasNoRowForIsRefusedAndHarmsNoOther) {
  TinyEngineOptions options;
  options.model.vocab = testing::kEndOfText;
  GatedEngine gated(std::move(options));
  Engine* engine = gated.engine.get();
  Call other = Start(engine, Ask("", "abc", 20));
  gated.gate->AwaitArrival(1);
  GenerateRequest text = Ask("", "", 5);
  text.prompt = {TextInput{"ab<|endoftext|>", true}};
  GenerateRequest messages = Ask("", "", 5);
  messages.prompt = {MessageInput{{"<|endoftext|>", "hello"}}};
  Call calls[] = {Start(engine, std::move(text)), Start(engine, std::move(messages))};
  gated.gate->Open();
  for (Call& call : calls) {
    const absl::Status status = call.sink->Wait().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(Reason(status), reason::kTokenOutOfRange);
    EXPECT_EQ(GetErrorDetails(status).metadata.at("limit"), "258");
    EXPECT_EQ(GetErrorDetails(status).field,
              &call == calls ? "prompt[0].text" : "prompt[0].messages");
  }
  EXPECT_TRUE(other.sink->Wait().ok());
}

}  // namespace
}  // namespace spotd::engine
