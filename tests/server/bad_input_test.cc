// What bad input gets: for each row a clear status with a reason, and a server that still serves.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "server/requests.h"
#include "tests/server/raw_call.h"
#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

class BadInputTest : public ::testing::Test {
 protected:
  void TearDown() override { server_.ExpectServing(); }

  void ExpectError(const grpc::Status& status, grpc::StatusCode code, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), reason) << status.error_message();
    EXPECT_FALSE(status.error_message().empty());
  }

  TestServer server_;
};

TEST_F(BadInputTest, UnknownSession) {
  const auto generated = server_.Generate(RequestFor("sessions/nobody", "hi", 1));
  ExpectError(generated.status, grpc::NOT_FOUND, "SESSION_NOT_FOUND");
  const auto appended = server_.Append("sessions/nobody", {Text("hi")});
  ExpectError(appended.status, grpc::NOT_FOUND, "SESSION_NOT_FOUND");
  v1::GenerateRequest with_policy = RequestFor("sessions/nobody", "hi", 1);
  with_policy.mutable_policy()->set_kind(v1::POLICY_KIND_FULL);
  ExpectError(server_.Generate(with_policy).status, grpc::NOT_FOUND, "SESSION_NOT_FOUND");
}

TEST_F(BadInputTest, SessionNamesThatAreNone) {
  for (const std::string& name :
       {std::string("nobody"), std::string("sessions/"), std::string("models/x"),
        "sessions/" + std::string(100'000, 'x')}) {
    const auto appended = server_.Append(name, {Text("hi")});
    ExpectError(appended.status, grpc::INVALID_ARGUMENT, "INVALID_FIELD");
    EXPECT_EQ(FieldOf(appended.status), "session");
    const auto generated = server_.Generate(RequestFor(name, "hi", 1));
    ExpectError(generated.status, grpc::INVALID_ARGUMENT, "INVALID_FIELD");
    EXPECT_EQ(FieldOf(generated.status), "session");
  }
}

// As the client wrote it, not as it is called inside.
TEST_F(BadInputTest, FieldsAreNamedByTheirPathInTheRequest) {
  v1::GenerateRequest request = RequestFor("", "hi", 1);
  request.set_candidate_count(17);
  EXPECT_EQ(FieldOf(server_.Generate(request).status), "candidate_count");
  const std::string session = server_.NewSession();
  EXPECT_EQ(FieldOf(server_.Append(session, {Text("")}).status), "input");
  EXPECT_EQ(FieldOf(server_.Append(session, {Text("x"), Tokens({-1})}).status), "input[1].tokens");
  request = RequestFor("", "hi", 1);
  *request.add_prompt() = Tokens({-1});
  EXPECT_EQ(FieldOf(server_.Generate(request).status), "prompt[1].tokens");
  v1::CreateSessionRequest create;
  create.mutable_session()->set_display_name(std::string(300, 'x'));
  grpc::ClientContext context;
  v1::Session created;
  EXPECT_EQ(FieldOf(server_.sessions().CreateSession(&context, create, &created)),
            "session.display_name");
}

TEST_F(BadInputTest, EmptyPrompt) {
  ExpectError(server_.Generate(RequestFor("", "", 1)).status, grpc::INVALID_ARGUMENT,
              "EMPTY_PROMPT");
  ExpectError(server_.Generate(RequestFor(server_.NewSession(), "", 1)).status,
              grpc::INVALID_ARGUMENT, "EMPTY_PROMPT");
  ExpectError(server_.Append(server_.NewSession(), {}).status, grpc::INVALID_ARGUMENT,
              "EMPTY_PROMPT");
  ExpectError(server_.Append(server_.NewSession(), {Text("")}).status, grpc::INVALID_ARGUMENT,
              "EMPTY_PROMPT");
}

TEST_F(BadInputTest, InputWithoutContent) {
  const auto appended = server_.Append(server_.NewSession(), {v1::Input()});
  ExpectError(appended.status, grpc::INVALID_ARGUMENT, "INVALID_FIELD");
  EXPECT_EQ(FieldOf(appended.status), "input");
}

// Nothing in them counts as bytes, but each takes memory.
TEST_F(BadInputTest, MorePiecesThanAnyoneNeeds) {
  v1::GenerateRequest request = RequestFor("", "", 1);
  request.clear_prompt();
  for (size_t i = 0; i <= server::InputCollector::kMaxPieces; ++i)
    request.add_prompt()->set_text("");
  const grpc::Status status = server_.Generate(request).status;
  ExpectError(status, grpc::OUT_OF_RANGE, "PROMPT_TOO_LONG");
  EXPECT_EQ(InfoOf(status).metadata().at("limit"), "262144");
  // However a text is cut, it is one piece.
  for (v1::Input& piece : *request.mutable_prompt()) piece = Chunk("");
  request.mutable_prompt(0)->set_text_chunk("text");
  EXPECT_TRUE(server_.Generate(request).status.ok());
}

TEST_F(BadInputTest, ContextOverflow) {
  const std::string session = server_.NewSession();
  ASSERT_TRUE(server_.Append(session, {Tokens(std::vector<int32_t>(100, 5))}).status.ok());
  const auto appended = server_.Append(session, {Tokens(std::vector<int32_t>(29, 5))});
  ExpectError(appended.status, grpc::OUT_OF_RANGE, "CONTEXT_OVERFLOW");
  EXPECT_EQ(InfoOf(appended.status).metadata().at("limit"), "128");
  EXPECT_EQ(server_.GetSession(session).token_count(), 100) << "the session is as it was";
}

TEST_F(BadInputTest, TokenIdsOutOfRange) {
  for (int32_t id : {-1, 300, std::numeric_limits<int32_t>::max()}) {
    const auto appended = server_.Append(server_.NewSession(), {Tokens({5, id})});
    ExpectError(appended.status, grpc::INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE");
  }
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_ids(300);
  v1::DetokenizeResponse response;
  const grpc::Status status = server_.models().Detokenize(&context, request, &response);
  ExpectError(status, grpc::INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE");
  EXPECT_EQ(FieldOf(status), "ids");
}

TEST_F(BadInputTest, InvalidUtf8InChunksNamesTheByte) {
  const std::string session = server_.NewSession();
  const auto appended = server_.Append(session, {Chunk("good "), Chunk("bad \xff here")});
  ExpectError(appended.status, grpc::INVALID_ARGUMENT, "INVALID_UTF8");
  EXPECT_NE(appended.status.error_message().find("byte 9"), std::string::npos)
      << appended.status.error_message();
  const auto cut = server_.Append(session, {Chunk("half a character \xe4\xbd")});
  ExpectError(cut.status, grpc::INVALID_ARGUMENT, "INVALID_UTF8");
  EXPECT_EQ(server_.GetSession(session).token_count(), 0);
}

// Client libraries refuse to send these; others on the wire do not.
TEST_F(BadInputTest, InvalidUtf8InStringsNamesTheField) {
  v1::TokenizeRequest request;
  request.set_text("XXXX");
  std::string bytes = request.SerializeAsString();
  bytes.replace(bytes.find("XXXX"), 4, "X\xff\xfeX");
  const grpc::Status status = RawUnary(server_.channel(), "/spotd.v1.ModelService/Tokenize", bytes);
  ExpectError(status, grpc::INVALID_ARGUMENT, "INVALID_UTF8");
  EXPECT_EQ(FieldOf(status), "spotd.v1.TokenizeRequest.text");
}

TEST_F(BadInputTest, BytesThatAreNoMessage) {
  for (const char* method :
       {"/spotd.v1.ModelService/Tokenize", "/spotd.v1.SessionService/CreateSession",
        "/spotd.v1.InferenceService/Complete", "/spotd.v1.InferenceService/Generate",
        "/spotd.v1.InferenceService/Append"}) {
    const grpc::Status status = RawUnary(server_.channel(), method, "\x0a\xff\xff\xff\x7f garbage");
    ExpectError(status, grpc::INVALID_ARGUMENT, "MALFORMED_REQUEST");
  }
}

TEST_F(BadInputTest, SamplingValues) {
  using S = v1::Sampling;
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<std::string, std::function<void(S*)>>> cases = {
      {"sampling.temperature", [&](S* s) { s->set_temperature(nan); }},
      {"sampling.temperature", [&](S* s) { s->set_temperature(-0.5f); }},
      {"sampling.temperature", [&](S* s) { s->set_temperature(infinity); }},
      {"sampling.top_k", [&](S* s) { s->set_top_k(-1); }},
      {"sampling.top_p", [&](S* s) { s->set_top_p(nan); }},
      {"sampling.top_p", [&](S* s) { s->set_top_p(0); }},
      {"sampling.top_p", [&](S* s) { s->set_top_p(1.5f); }},
      {"sampling.min_p", [&](S* s) { s->set_min_p(nan); }},
      {"sampling.min_p", [&](S* s) { s->set_min_p(-0.1f); }},
      {"sampling.repetition_penalty", [&](S* s) { s->set_repetition_penalty(0); }},
      {"sampling.repetition_penalty", [&](S* s) { s->set_repetition_penalty(nan); }},
      {"sampling.presence_penalty", [&](S* s) { s->set_presence_penalty(infinity); }},
      {"sampling.frequency_penalty", [&](S* s) { s->set_frequency_penalty(nan); }},
      {"sampling.max_tokens", [&](S* s) { s->set_max_tokens(0); }},
      {"sampling.max_tokens", [&](S* s) { s->set_max_tokens(-3); }},
      {"sampling.stop", [&](S* s) { s->add_stop(""); }},
      {"sampling.stop", [&](S* s) { s->add_stop(std::string(300, 'x')); }},
      {"sampling.stop_token_ids", [&](S* s) { s->add_stop_token_ids(300); }},
  };
  for (const auto& [field, spoil] : cases) {
    v1::GenerateRequest request = RequestFor("", "hi", 1);
    spoil(request.mutable_sampling());
    const grpc::Status status = server_.Generate(request).status;
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << field;
    EXPECT_EQ(FieldOf(status), field) << status.error_message();
    EXPECT_FALSE(InfoOf(status).reason().empty());
  }
}

TEST_F(BadInputTest, PolicyValues) {
  v1::GenerateRequest request = RequestFor("", "hi", 1);
  request.mutable_policy()->set_fraction(std::nanf(""));
  grpc::Status status = server_.Generate(request).status;
  ExpectError(status, grpc::INVALID_ARGUMENT, "INVALID_POLICY");
  EXPECT_EQ(FieldOf(status), "policy.fraction");

  request.mutable_policy()->Clear();
  request.mutable_policy()->set_kind(v1::POLICY_KIND_DISTILLED);
  status = server_.Generate(request).status;
  ExpectError(status, grpc::FAILED_PRECONDITION, "SELECTOR_MISSING");
  EXPECT_EQ(FieldOf(status), "policy.kind");

  request.mutable_policy()->set_kind(static_cast<v1::PolicyKind>(77));
  ExpectError(server_.Generate(request).status, grpc::INVALID_ARGUMENT, "INVALID_FIELD");

  request.clear_policy();
  request.set_top_blocks(-1);
  status = server_.Generate(request).status;
  ExpectError(status, grpc::INVALID_ARGUMENT, "INVALID_FIELD");
  EXPECT_EQ(FieldOf(status), "top_blocks");
}

TEST_F(BadInputTest, UnknownModel) {
  grpc::ClientContext context;
  v1::GetModelRequest request;
  request.set_name("models/other");
  v1::Model model;
  const grpc::Status status = server_.models().GetModel(&context, request, &model);
  ExpectError(status, grpc::NOT_FOUND, "MODEL_NOT_FOUND");
}

TEST(BadInputSizeTest, OversizedPrompt) {
  TestServer server(128, {"--max_prompt=1KiB"});
  const std::string session = server.NewSession();
  const std::vector<v1::Input> pieces(3, Text(std::string(400, 'a')));
  const auto appended = server.Append(session, pieces);
  EXPECT_EQ(appended.status.error_code(), grpc::OUT_OF_RANGE);
  EXPECT_EQ(InfoOf(appended.status).reason(), "PROMPT_TOO_LONG");
  EXPECT_EQ(InfoOf(appended.status).metadata().at("limit"), "1024");
  EXPECT_EQ(FieldOf(appended.status), "input");
  const auto generated = server.Generate(RequestFor("", std::string(2000, 'a'), 1));
  EXPECT_EQ(InfoOf(generated.status).reason(), "PROMPT_TOO_LONG");
  EXPECT_EQ(FieldOf(generated.status), "prompt");
  EXPECT_EQ(server.GetSession(session).token_count(), 0);
  server.ExpectServing();
}

// gRPC ends the reading of such a stream as if the client had half-closed: it must not count as the
// whole input.
TEST(BadInputSizeTest, AMessageOverTheLimitAppendsNothing) {
  TestServer server(4096);
  const std::string session = server.NewSession();
  const auto appended = server.Append(session, {Text("first"), Text(std::string(17 << 20, 'a'))});
  EXPECT_EQ(appended.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(server.GetSession(session).token_count(), 0);
  server.ExpectServing();
}

TEST(BadInputWritersTest, TwoWritersOnOneSession) {
  TestServer server(65536);
  const std::string session = server.NewSession();
  grpc::ClientContext context;
  const auto first = server.inference().Generate(&context, RequestFor(session, "long", 60000));
  v1::GenerateResponse response;
  ASSERT_TRUE(first->Read(&response));
  EXPECT_EQ(server.GetSession(session).state(), v1::Session::STATE_ACTIVE);

  for (const grpc::Status& status : {server.Generate(RequestFor(session, "me too", 1)).status,
                                     server.Append(session, {Text("me too")}).status}) {
    EXPECT_EQ(status.error_code(), grpc::ABORTED) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), "SESSION_BUSY");
  }
  ASSERT_TRUE(first->Read(&response)) << "the first writer is not disturbed";
  context.TryCancel();
  while (first->Read(&response)) {
  }
  first->Finish();
  server.ExpectServing();
}

TEST(BadInputSizeTest, OversizedTextToTokenize) {
  TestServer server(128, {"--max_prompt=1KiB"});
  const auto expect_too_long = [](const grpc::Status& status, const std::string& field) {
    EXPECT_EQ(status.error_code(), grpc::OUT_OF_RANGE);
    EXPECT_EQ(InfoOf(status).reason(), "PROMPT_TOO_LONG");
    EXPECT_EQ(FieldOf(status), field);
    EXPECT_EQ(InfoOf(status).metadata().at("limit"), "1024");
  };
  v1::TokenizeRequest text;
  v1::TokenizeResponse tokens;
  for (const size_t bytes : {1024, 1025}) {
    grpc::ClientContext context;
    text.set_text(std::string(bytes, 'a'));
    const grpc::Status status = server.models().Tokenize(&context, text, &tokens);
    if (bytes == 1024) {
      EXPECT_TRUE(status.ok()) << status.error_message();
    } else {
      expect_too_long(status, "text");
    }
  }
  v1::DetokenizeRequest ids;
  v1::DetokenizeResponse reply;
  for (const int count : {256, 257}) {
    grpc::ClientContext context;
    ids.mutable_ids()->Resize(count, 5);
    const grpc::Status status = server.models().Detokenize(&context, ids, &reply);
    if (count == 256) {
      EXPECT_TRUE(status.ok()) << status.error_message();
    } else {
      expect_too_long(status, "ids");
    }
  }
}

}  // namespace
}  // namespace spotd::testing
