// What the API offers beyond the first answer: ends, etags, repeats, candidates, traces, aborts.

#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

class ApiDepthTest : public ::testing::Test {
 protected:
  grpc::Status Create(const v1::CreateSessionRequest& request, v1::Session* session) {
    grpc::ClientContext context;
    return server_.sessions().CreateSession(&context, request, session);
  }
  // One message and the end.
  TestServer::Appended Append(const v1::AppendRequest& request) {
    grpc::ClientContext context;
    const auto stream = server_.inference().Append(&context);
    EXPECT_TRUE(stream->Write(request));
    stream->WritesDone();
    TestServer::Appended appended;
    for (v1::AppendResponse response; stream->Read(&response);) {
      if (response.has_result()) appended.result = response.result();
    }
    appended.status = stream->Finish();
    return appended;
  }
  grpc::Status Abort(const v1::AbortRequest& request, int32_t* aborted) {
    grpc::ClientContext context;
    v1::AbortResponse response;
    const grpc::Status status = server_.inference().Abort(&context, request, &response);
    *aborted = response.aborted_calls();
    return status;
  }

  TestServer server_{4096};
};

void ExpectAddsUp(const v1::Usage& usage) {
  EXPECT_EQ(usage.prompt_tokens(), usage.computed_tokens() + usage.session_tokens() +
                                       usage.prefix_tokens() + usage.restored_tokens());
}

TEST_F(ApiDepthTest, ASessionSaysWhenItEnds) {
  v1::CreateSessionRequest request;
  v1::Session session;
  ASSERT_TRUE(Create(request, &session).ok());
  EXPECT_FALSE(session.has_ttl());
  EXPECT_FALSE(session.has_expire_time());
  EXPECT_FALSE(session.etag().empty());

  request.mutable_session()->mutable_ttl()->set_seconds(3600);
  ASSERT_TRUE(Create(request, &session).ok());
  EXPECT_EQ(session.ttl().seconds(), 3600);
  EXPECT_NEAR(session.expire_time().seconds(), session.create_time().seconds() + 3600, 1);

  request.mutable_session()->mutable_ttl()->set_seconds(-1);
  EXPECT_EQ(FieldOf(Create(request, &session)), "session.ttl");
  request.mutable_session()->clear_ttl();
  request.mutable_session()->mutable_expire_time()->set_seconds(1000);
  EXPECT_EQ(FieldOf(Create(request, &session)), "session.expire_time") << "in the past";
  request.mutable_session()->mutable_expire_time()->set_nanos(-1);
  EXPECT_EQ(FieldOf(Create(request, &session)), "session.expire_time");
  request.mutable_session()->clear_expire_time();
  request.mutable_session()->mutable_ttl()->set_nanos(20'000'000);
  ASSERT_TRUE(Create(request, &session).ok());
  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext context;
    v1::GetSessionRequest get;
    get.set_name(session.name());
    v1::Session reply;
    return server_.sessions().GetSession(&context, get, &reply).error_code() == grpc::NOT_FOUND;
  }));
}

TEST_F(ApiDepthTest, RequestsWithAnIdHappenOnce) {
  v1::CreateSessionRequest create;
  create.set_request_id("c-1");
  v1::Session first;
  v1::Session second;
  ASSERT_TRUE(Create(create, &first).ok());
  ASSERT_TRUE(Create(create, &second).ok());
  EXPECT_EQ(first.name(), second.name());

  v1::AppendRequest append;
  append.set_session(first.name());
  append.set_request_id("a-1");
  append.set_etag(first.etag());
  *append.add_input() = Chunk("some ");
  *append.add_input() = Chunk("text");
  const TestServer::Appended once = Append(append);
  ASSERT_TRUE(once.status.ok()) << once.status.error_message();
  EXPECT_FALSE(once.result.replayed());
  ExpectAddsUp(once.result.usage());
  append.clear_input();
  *append.add_input() = Text("some text");  // the same, cut otherwise
  const TestServer::Appended again = Append(append);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_TRUE(again.result.replayed());
  EXPECT_EQ(again.result.session_token_count(), once.result.session_token_count());

  v1::GenerateRequest generate = RequestFor(first.name(), "more", 5);
  generate.set_request_id("g-1");
  generate.mutable_sampling()->set_temperature(1);
  generate.set_top_logprobs(2);
  const TestServer::Generated told = server_.Generate(generate);
  ASSERT_TRUE(told.status.ok()) << told.status.error_message();
  const TestServer::Generated repeated = server_.Generate(generate);
  ASSERT_TRUE(repeated.status.ok()) << repeated.status.error_message();
  EXPECT_TRUE(repeated.result->replayed());
  EXPECT_EQ(repeated.text, told.text);
  EXPECT_EQ(repeated.tokens, told.tokens);
  ExpectAddsUp(told.result->usage());
  EXPECT_EQ(server_.GetSession(first.name()).token_count(), told.result->session_token_count());
}

// Sessions are made once for an id, and an id stands for one request.
TEST_F(ApiDepthTest, AnIdThatMadeASessionMakesNoOther) {
  v1::CreateSessionRequest create;
  create.set_request_id("c-1");
  v1::Session parent;
  ASSERT_TRUE(Create(create, &parent).ok());
  v1::CreateSessionRequest other = create;
  other.mutable_session()->set_display_name("another");
  v1::Session none;
  EXPECT_EQ(InfoOf(Create(other, &none)).reason(), "REQUEST_ID_REUSED");

  const auto fork = [&](const v1::ForkSessionRequest& request, v1::Session* reply) {
    grpc::ClientContext context;
    return server_.sessions().ForkSession(&context, request, reply);
  };
  v1::ForkSessionRequest request;
  request.set_name(parent.name());
  request.set_request_id("c-1");
  EXPECT_EQ(InfoOf(fork(request, &none)).reason(), "REQUEST_ID_REUSED") << "a Create's id";
  request.set_request_id("f-1");
  request.set_etag(parent.etag());
  v1::Session first;
  ASSERT_TRUE(fork(request, &first).ok());
  // The client did not hear of it; meanwhile the parent went on, and went.
  ASSERT_TRUE(server_.Append(parent.name(), {Text("more")}).status.ok());
  v1::Session second;
  ASSERT_TRUE(fork(request, &second).ok());
  EXPECT_EQ(second.name(), first.name());
  grpc::ClientContext context;
  v1::DeleteSessionRequest remove;
  remove.set_name(parent.name());
  google::protobuf::Empty empty;
  ASSERT_TRUE(server_.sessions().DeleteSession(&context, remove, &empty).ok());
  ASSERT_TRUE(fork(request, &second).ok());
  EXPECT_EQ(second.name(), first.name());
}

TEST_F(ApiDepthTest, TheHeadBelongsIntoTheFirstMessage) {
  grpc::ClientContext context;
  const auto stream = server_.inference().Append(&context);
  v1::AppendRequest request;
  request.set_session(server_.NewSession());
  ASSERT_TRUE(stream->Write(request));
  request.Clear();
  request.set_request_id("late");
  stream->Write(request);
  stream->WritesDone();
  EXPECT_EQ(FieldOf(stream->Finish()), "session");
}

TEST_F(ApiDepthTest, CandidatesComeApartAndShareThePrompt) {
  v1::GenerateRequest request = RequestFor("", std::string(300, 'x'), 6);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(11);
  request.set_candidate_count(3);
  grpc::ClientContext context;
  const auto stream = server_.inference().Generate(&context, request);
  std::map<int32_t, std::vector<int32_t>> tokens;
  v1::GenerateResult result;
  for (v1::GenerateResponse response; stream->Read(&response);) {
    for (const int32_t id : response.delta().token_ids()) {
      tokens[response.delta().candidate()].push_back(id);
    }
    if (response.has_result()) result = response.result();
  }
  ASSERT_TRUE(stream->Finish().ok());
  ASSERT_EQ(result.candidates_size(), 3);
  EXPECT_EQ(result.usage().generated_tokens(), 18);
  ExpectAddsUp(result.usage());
  for (int i = 0; i < 3; ++i) {
    v1::GenerateRequest alone = RequestFor("", std::string(300, 'x'), 6);
    *alone.mutable_sampling() = request.sampling();
    alone.mutable_sampling()->set_seed(result.candidates(i).seed());
    EXPECT_EQ(server_.Generate(alone).tokens, tokens[i]) << i;
  }

  v1::CompleteRequest complete;
  *complete.mutable_prompt() = request.prompt();
  *complete.mutable_sampling() = request.sampling();
  complete.set_candidate_count(3);
  complete.set_top_logprobs(4);
  grpc::ClientContext complete_context;
  v1::CompleteResponse response;
  ASSERT_TRUE(server_.inference().Complete(&complete_context, complete, &response).ok());
  ASSERT_EQ(response.more_completions_size(), 2);
  const auto ids = [](const v1::TokenDelta& delta) {
    return std::vector<int32_t>(delta.token_ids().begin(), delta.token_ids().end());
  };
  EXPECT_EQ(ids(response.completion()), tokens[0]);
  EXPECT_EQ(ids(response.more_completions(1)), tokens[2]);
  EXPECT_EQ(response.more_completions(1).candidate(), 2);
  ASSERT_EQ(response.completion().top_logprobs_size(), 6);
  EXPECT_EQ(response.completion().top_logprobs(0).token_ids_size(), 4);
}

TEST_F(ApiDepthTest, LogitBiasForbids) {
  const std::vector<int32_t> plain = server_.Generate(RequestFor("", "abc", 4)).tokens;
  v1::GenerateRequest request = RequestFor("", "abc", 4);
  (*request.mutable_sampling()->mutable_logit_bias())[plain[0]] = -100;
  for (const int32_t token : server_.Generate(request).tokens) EXPECT_NE(token, plain[0]);
}

TEST_F(ApiDepthTest, ATraceSaysWhatEachTokenRead) {
  const std::string session = server_.NewSession();
  v1::GenerateRequest request = RequestFor(session, std::string(900, 'y'), 5);
  request.set_record_trace(true);
  request.mutable_policy()->set_kind(v1::POLICY_KIND_WINDOW);
  request.mutable_policy()->set_sink_tokens(16);
  request.mutable_policy()->set_recency_tokens(32);
  request.mutable_policy()->set_k_min_tokens(0);
  const TestServer::Generated generated = server_.Generate(request);
  ASSERT_TRUE(generated.status.ok()) << generated.status.error_message();

  grpc::ClientContext context;
  v1::TraceRequest trace;
  trace.set_session(session);
  const auto stream = server_.inference().Trace(&context, trace);
  v1::TraceResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_TRUE(response.has_header());
  EXPECT_EQ(response.header().step_count(), 5);
  EXPECT_EQ(response.header().dropped_steps(), 0);
  EXPECT_EQ(response.header().block_token_count(), 16);
  const int32_t prompt = generated.result->usage().prompt_tokens();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    const v1::TraceStep& step = response.step();
    EXPECT_EQ(step.position(), prompt + i);
    EXPECT_EQ(step.token_id(), generated.tokens[i]);
    EXPECT_FALSE(step.dense());
    ASSERT_EQ(step.layers_size(), server_.engine().model_config().layers);
    for (const v1::LayerRead& layer : step.layers()) {
      ASSERT_EQ(layer.first_blocks_size(), layer.block_counts_size());
      EXPECT_EQ(layer.first_blocks(0), 0);
    }
  }
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ApiDepthTest, AbortEndsACallByItsIdAndIsIdempotent) {
  TestServer server(65536);
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "call-7");
  const auto stream = server.inference().Generate(&context, RequestFor("", "go", 60000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  v1::AbortRequest request;
  request.set_call_id("call-7");
  grpc::ClientContext abort_context;
  v1::AbortResponse aborted;
  ASSERT_TRUE(server.inference().Abort(&abort_context, request, &aborted).ok());
  EXPECT_EQ(aborted.aborted_calls(), 1);
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::CANCELLED);
  EXPECT_EQ(InfoOf(status).reason(), "CALL_ABORTED");

  int32_t count = -1;
  EXPECT_TRUE(Abort(request, &count).ok()) << "an id that nobody knows";
  EXPECT_EQ(count, 0);
  request.set_session("sessions/none");
  EXPECT_TRUE(Abort(request, &count).ok());
  EXPECT_EQ(count, 0);
  request.set_session("nonsense");
  EXPECT_EQ(FieldOf(Abort(request, &count)), "session");
  request.clear_target();
  EXPECT_EQ(FieldOf(Abort(request, &count)), "call_id");
}

// At once, not when the client half-closes, and however little has been sent.
TEST_F(ApiDepthTest, AbortEndsAnUpload) {
  for (const bool by_id : {true, false}) {
    const std::string session = server_.NewSession();
    grpc::ClientContext context;
    context.AddMetadata("x-request-id", "upload");
    const auto stream = server_.inference().Append(&context);
    if (!by_id) {
      v1::AppendRequest piece;
      piece.set_session(session);
      *piece.add_input() = Text("the beginning");
      ASSERT_TRUE(stream->Write(piece));
    }
    v1::AbortRequest request;
    if (by_id) {
      request.set_call_id("upload");
    } else {
      request.set_session(session);
    }
    ASSERT_TRUE(Eventually([&] {
      int32_t aborted = 0;
      EXPECT_TRUE(Abort(request, &aborted).ok());
      return aborted == 1;
    })) << "the call has arrived";
    v1::AppendResponse response;
    EXPECT_FALSE(stream->Read(&response));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::CANCELLED);
    EXPECT_EQ(InfoOf(status).reason(), "CALL_ABORTED");
    EXPECT_EQ(server_.GetSession(session).token_count(), 0);
    EXPECT_EQ(server_.GetSession(session).state(), v1::Session::STATE_IDLE);
  }
  server_.ExpectServing();
}

// Whoever sends something now and then may go on. One that stops sending is ended, and what it sent
// is not in the session.
TEST_F(ApiDepthTest, AStalledUploadEnds) {
  const std::string session = server_.NewSession();
  grpc::ClientContext context;
  const auto stream = server_.inference().Append(&context);
  v1::AppendRequest piece;
  piece.set_session(session);
  *piece.add_input() = Text("the beginning");
  // When a message has been written the one before it has been read.
  const auto write = [&] {
    ASSERT_TRUE(stream->Write(piece));
    piece.clear_session();
  };
  write();
  write();
  const auto before = engine::Clock::now();
  for (int i = 0; i < 3; ++i) write();
  server_.context().calls->EndStalledUploads(before);
  write();
  write();
  server_.context().calls->EndStalledUploads(engine::Clock::now() + std::chrono::hours(1));
  v1::AppendResponse response;
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_EQ(InfoOf(status).reason(), "UPLOAD_STALLED");
  EXPECT_EQ(server_.GetSession(session).token_count(), 0);
  EXPECT_EQ(server_.GetSession(session).state(), v1::Session::STATE_IDLE);
  server_.ExpectServing();
}

}  // namespace
}  // namespace spotd::testing
