// Streams whose clients leave, wait or run out of time.
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

constexpr int32_t kLongContext = 65536;
constexpr int32_t kManyTokens = 60000;

class TokenStreamTest : public ::testing::Test {
 protected:
  int64_t Running() {
    const engine::Metrics& metrics = server_.engine().metrics();
    return metrics.requests_running.load() + metrics.requests_waiting.load();
  }
  uint64_t Generated() { return server_.engine().metrics().generation_tokens.load(); }

  // Waits until the engine has nothing to do and proves that it computes nothing more.
  void ExpectStopped() {
    EXPECT_TRUE(Eventually([&] { return server_.engine().Idle(); }));
    EXPECT_EQ(Running(), 0);
    const uint64_t steps = server_.engine().metrics().engine_steps.load();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(server_.engine().metrics().engine_steps.load(), steps);
  }

  TestServer server_{kLongContext};
};

TEST_F(TokenStreamTest, ACancelledGenerationStopsAndLeavesTheSessionUsable) {
  const std::string session = server_.NewSession();
  grpc::ClientContext context;
  const auto stream =
      server_.inference().Generate(&context, RequestFor(session, "go", kManyTokens));
  v1::GenerateResponse response;
  int tokens = 0;
  while (tokens < 3 && stream->Read(&response)) tokens += response.delta().token_ids_size();
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::CANCELLED);
  ExpectStopped();
  EXPECT_EQ(server_.GetSession(session).state(), v1::Session::STATE_IDLE);
  EXPECT_GE(server_.GetSession(session).token_count(), 3);
  EXPECT_TRUE(server_.Generate(RequestFor(session, "", 2)).status.ok());
}

TEST_F(TokenStreamTest, AClientThatVanishesStopsItsGeneration) {
  const std::string session = server_.NewSession();
  {
    grpc::ClientContext context;
    const auto stream =
        server_.inference().Generate(&context, RequestFor(session, "go", kManyTokens));
    v1::GenerateResponse response;
    ASSERT_TRUE(stream->Read(&response));
    context.TryCancel();  // what gRPC does for a client whose connection is gone
  }
  ExpectStopped();
  server_.ExpectServing();
}

TEST_F(TokenStreamTest, AnAbandonedCompleteStops) {
  v1::CompleteRequest request;
  *request.add_prompt() = Text("go");
  request.mutable_sampling()->set_max_tokens(kManyTokens);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  v1::CompleteResponse response;
  const grpc::Status status = server_.inference().Complete(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::DEADLINE_EXCEEDED);
  ExpectStopped();
}

// It comes from memory, faster than anybody reads: a message stays far under what gRPC allows.
TEST_F(TokenStreamTest, ALongReplyThatIsRepeatedComesInSeveralMessages) {
  v1::GenerateRequest request = RequestFor(server_.NewSession(), "go", 1500);
  request.mutable_policy()->set_kind(v1::POLICY_KIND_WINDOW);
  request.set_request_id("once");
  const TestServer::Generated first = server_.Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  grpc::ClientContext context;
  const auto stream = server_.inference().Generate(&context, request);
  std::vector<int32_t> tokens;
  bool replayed = false;
  for (v1::GenerateResponse response; stream->Read(&response);) {
    const auto& ids = response.delta().token_ids();
    EXPECT_LE(ids.size(), 1024);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    replayed = response.result().replayed();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(replayed);
  EXPECT_EQ(tokens, first.tokens);
}

TEST_F(TokenStreamTest, ADeadlineStopsAnAppendAndAppendsNothingMore) {
  const std::string session = server_.NewSession();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  const auto stream = server_.inference().Append(&context);
  v1::AppendRequest request;
  request.set_session(session);
  *request.add_input() = Tokens(std::vector<int32_t>(kManyTokens, 7));
  stream->Write(request);
  stream->WritesDone();
  v1::AppendResponse response;
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::DEADLINE_EXCEEDED);
  ExpectStopped();
  EXPECT_LT(server_.GetSession(session).token_count(), kManyTokens);
  EXPECT_TRUE(server_.Append(session, {Text("more")}).status.ok());
}

TEST_F(TokenStreamTest, AnAppendWhoseClientLeavesBeforeTheEndAppendsNothing) {
  const std::string session = server_.NewSession();
  {
    grpc::ClientContext context;
    const auto stream = server_.inference().Append(&context);
    v1::AppendRequest request;
    request.set_session(session);
    *request.add_input() = Text("half of it");
    ASSERT_TRUE(stream->Write(request));
    context.TryCancel();
    stream->Finish();
  }
  EXPECT_TRUE(Eventually([&] { return server_.rpc_metrics().in_progress() == 0; }));
  ExpectStopped();
  EXPECT_EQ(server_.GetSession(session).token_count(), 0);
}

// A reader that does not read pauses its own sequence after a bounded number of tokens, and nobody
// else's.
TEST_F(TokenStreamTest, ASlowReaderIsPausedAndOthersAreNot) {
  grpc::ClientContext context;
  const auto slow = server_.inference().Generate(&context, RequestFor("", "slow", kManyTokens));
  EXPECT_TRUE(Eventually([&] {
    const uint64_t before = Generated();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return before > 0 && Generated() == before;
  })) << "the engine goes on for a client that does not read";
  EXPECT_LT(Generated(), static_cast<uint64_t>(kManyTokens)) << "nothing was bounded";
  EXPECT_EQ(server_.Generate(RequestFor("", "quick", 20)).tokens.size(), 20u);

  const uint64_t paused_at = Generated();
  v1::GenerateResponse response;
  for (int i = 0; i < 100 && slow->Read(&response); ++i) {
  }
  EXPECT_TRUE(Eventually([&] { return Generated() > paused_at; })) << "reading resumes it";
  context.TryCancel();
  while (slow->Read(&response)) {
  }
  slow->Finish();
  ExpectStopped();
}

TEST_F(TokenStreamTest, DeletingASessionEndsWhatRunsOnIt) {
  const std::string session = server_.NewSession();
  grpc::ClientContext context;
  const auto stream =
      server_.inference().Generate(&context, RequestFor(session, "go", kManyTokens));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  grpc::ClientContext delete_context;
  v1::DeleteSessionRequest request;
  request.set_name(session);
  google::protobuf::Empty empty;
  EXPECT_TRUE(server_.sessions().DeleteSession(&delete_context, request, &empty).ok());
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::CANCELLED);
  EXPECT_EQ(InfoOf(status).reason(), "SESSION_DELETED");
}

TEST_F(TokenStreamTest, TheRequestIdComesBack) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id-42");
  const auto stream = server_.inference().Generate(&context, RequestFor("", "hi", 1));
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
  }
  ASSERT_TRUE(stream->Finish().ok());
  const auto& metadata = context.GetServerInitialMetadata();
  const auto found = metadata.find("x-request-id");
  ASSERT_NE(found, metadata.end());
  EXPECT_EQ(std::string(found->second.data(), found->second.size()), "my-id-42");
}

TEST(TokenStreamQueueTest, AFullQueueRefusesAtOnceAndSaysWhenToComeBack) {
  TestServer server(kLongContext, {"--max_running=1", "--max_waiting=1"});
  grpc::ClientContext first_context, second_context;
  const auto first =
      server.inference().Generate(&first_context, RequestFor("", "one", kManyTokens));
  v1::GenerateResponse response;
  ASSERT_TRUE(first->Read(&response));
  const auto second =
      server.inference().Generate(&second_context, RequestFor("", "two", kManyTokens));
  ASSERT_TRUE(Eventually([&] { return server.engine().metrics().requests_waiting.load() == 1; }));
  const grpc::Status status = server.Generate(RequestFor("", "three", 1)).status;
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(InfoOf(status).reason(), "QUEUE_FULL");
  EXPECT_TRUE(RetryOf(status).has_value());

  // Cancelling in the queue works without a step of the request.
  second_context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return server.engine().metrics().requests_waiting.load() == 0; }));
  first_context.TryCancel();
  while (first->Read(&response) || second->Read(&response)) {
  }
  first->Finish();
  second->Finish();
  EXPECT_TRUE(Eventually([&] { return server.engine().Idle(); }));
  server.ExpectServing();
}

}  // namespace
}  // namespace spotd::testing
