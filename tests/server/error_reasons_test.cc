// Each reason of the catalogue, brought about and looked at as a client sees it: code, ErrorInfo
// with the metadata that the catalogue promises, RetryInfo where it promises that.

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <map>

#include "runtime/engine/error_catalogue.h"
#include "server/authenticator.h"
#include "server/status_map.h"
#include "tests/runtime/engine/engine_fixture.h"
#include "tests/server/raw_call.h"
#include "tests/server/test_model.h"
#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

using engine::reason::kCallAborted;
namespace reason = engine::reason;
using Case = std::function<grpc::Status()>;

// A status of the engine as the services send it.
grpc::Status Sent(const absl::Status& status) {
  return server::ToGrpcStatus(status);
}

grpc::Status Generate(const v1::GenerateRequest& request, std::vector<std::string> flags = {}) {
  TestServer server(128, std::move(flags));
  return server.Generate(request).status;
}

grpc::Status GenerateWith(const std::function<void(v1::GenerateRequest*)>& change) {
  v1::GenerateRequest request = RequestFor("", "prompt", 2);
  change(&request);
  return Generate(request);
}

grpc::Status Rewind(TestServer* server, const std::string& session, int32_t tokens,
                    const std::string& etag = "") {
  grpc::ClientContext context;
  v1::RewindSessionRequest request;
  request.set_name(session);
  request.set_token_count(tokens);
  request.set_etag(etag);
  v1::Session reply;
  return server->sessions().RewindSession(&context, request, &reply);
}

grpc::Status ListWithToken(const server::IdentityProvider& identity, const std::string& header) {
  TestServer server(128, {}, &identity);
  grpc::ClientContext context;
  if (!header.empty()) context.AddMetadata("authorization", header);
  v1::ListModelsResponse response;
  return server.models().ListModels(&context, {}, &response);
}

// An authenticator that knows no token at all.
std::unique_ptr<server::Authenticator> WithTokens() {
  const std::string path = TemporaryDirectory() + "/tokens";
  std::ofstream(path) << "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8 alpha\n";
  return *server::Authenticator::Create({.token_file = path});
}

grpc::Status TwoAtOnce(engine::EngineOptions options) {
  TinyEngineOptions tiny;
  tiny.engine = std::move(options);
  tiny.engine.kv_memory_bytes = 16u << 20;
  auto engine = MakeTinyEngine(std::move(tiny));
  engine::Call first = engine::Start(engine.get(), engine::Ask("", "abc", 20), 2);
  first.sink->WaitForTokens(2);
  const absl::Status status = Complete(engine.get(), engine::Ask("", "abc", 1)).second.status();
  first.sink->Resume();
  EXPECT_TRUE(first.sink->Wait().ok());
  return Sent(status);
}

grpc::Status SessionsAtMost(const engine::SessionLimits& limits) {
  TinyEngineOptions tiny;
  tiny.engine.sessions = limits;
  auto engine = MakeTinyEngine(std::move(tiny));
  EXPECT_TRUE(engine->CreateSession({}).ok());
  return Sent(engine->CreateSession({}).status());
}

// One that comes while another is sending its input.
grpc::Status AppendBesideAnOpenOne(std::vector<std::string> flags) {
  TestServer server(128, std::move(flags));
  const std::string session = server.NewSession();
  grpc::ClientContext context;
  const auto open = server.inference().Append(&context);
  v1::AppendRequest request;
  request.set_session(session);
  EXPECT_TRUE(open->Write(request));
  EXPECT_TRUE(Eventually([&] { return server.context().calls->uploads() == 1; }));
  const grpc::Status status = server.Append(server.NewSession(), {Text("x")}).status;
  context.TryCancel();
  (void)open->Finish();
  EXPECT_TRUE(Eventually([&] { return server.context().calls->uploads() == 0; }))
      << "its place did not come back";
  EXPECT_TRUE(server.Append(server.NewSession(), {Text("x")}).status.ok());
  return status;
}

// Ends a Generate on a session in the middle.
grpc::Status Interrupt(
    const std::function<void(engine::Engine*, engine::Call*, std::string)>& how) {
  auto engine = MakeTinyEngine();
  const std::string id = engine::NewSession(engine.get());
  engine::Call call = engine::Start(engine.get(), engine::Ask(id, "abc", 20), 2);
  call.sink->WaitForTokens(2);
  how(engine.get(), &call, id);
  return Sent(call.sink->Wait().status());
}

std::map<std::string, Case> ArgumentCases() {
  return {
      {reason::kInvalidField,
       [] { return GenerateWith([](auto* request) { request->set_top_blocks(-1); }); }},
      {reason::kMalformedRequest,
       [] {
         TestServer server;
         return RawUnary(server.channel(), "/spotd.v1.InferenceService/Generate", "\xff\xff");
       }},
      {reason::kInvalidUtf8,
       [] { return GenerateWith([](auto* request) { *request->add_prompt() = Chunk("\xff"); }); }},
      {reason::kEmptyPrompt,
       [] { return GenerateWith([](auto* request) { request->clear_prompt(); }); }},
      {reason::kTokenOutOfRange,
       [] {
         return GenerateWith([](auto* request) { *request->add_prompt() = Tokens({1 << 30}); });
       }},
      {reason::kInvalidSampling,
       [] {
         return GenerateWith(
             [](auto* request) { request->mutable_sampling()->set_temperature(-1); });
       }},
      {reason::kInvalidPolicy,
       [] {
         return GenerateWith([](auto* request) { request->mutable_policy()->set_fraction(2); });
       }},
      {reason::kTemplateRefused,
       [] {
         auto engine = MakeTinyEngine();
         engine::GenerateRequest request = engine::Ask("", "", 1);
         request.prompt.emplace_back(engine::MessageInput{{"refused", "x"}});
         return Sent(Complete(engine.get(), request).second.status());
       }},
      {reason::kRequestIdReused,
       [] {
         TestServer server;
         v1::GenerateRequest request = RequestFor(server.NewSession(), "one", 1);
         request.set_request_id("id");
         EXPECT_TRUE(server.Generate(request).status.ok());
         *request.mutable_prompt(0) = Text("two");
         return server.Generate(request).status;
       }},
      {reason::kPromptTooLong,
       [] { return Generate(RequestFor("", std::string(2000, 'x'), 1), {"--max_prompt=1KiB"}); }},
      {reason::kReplyTooLong,
       [] {
         TestServer server(65536);
         grpc::ClientContext context;
         v1::CompleteRequest request;
         *request.add_prompt() = Text("prompt");
         request.mutable_sampling()->set_max_tokens(60000);
         request.mutable_sampling()->set_ignore_eos(true);
         request.set_candidate_count(16);
         request.set_top_logprobs(20);
         v1::CompleteResponse response;
         const grpc::Status status = server.inference().Complete(&context, request, &response);
         EXPECT_EQ(FieldOf(status), "sampling.max_tokens");
         EXPECT_EQ(server.engine().metrics().prompt_tokens_computed.load(), 0);
         return status;
       }},
      {reason::kContextOverflow,
       [] { return Generate(RequestFor("", std::string(2000, 'x'), 1)); }},
      {reason::kPositionOutOfRange,
       [] {
         TestServer server;
         return Rewind(&server, server.NewSession(), 1);
       }},
      {reason::kPolicyNotAllowed,
       [] {
         v1::GenerateRequest request = RequestFor("", "x", 1);
         request.mutable_policy()->set_kind(v1::POLICY_KIND_FULL);
         return Generate(request, {"--allowed_policies=quest,window"});
       }},
      {reason::kSelectorMissing,
       [] {
         return GenerateWith(
             [](auto* request) { request->mutable_policy()->set_kind(v1::POLICY_KIND_DISTILLED); });
       }},
      {reason::kNoChatTemplate,
       [] {
         TinyEngineOptions options;
         options.chat_template = false;
         auto engine = MakeTinyEngine(std::move(options));
         engine::GenerateRequest request = engine::Ask("", "", 1);
         request.prompt.emplace_back(engine::MessageInput{{"user", "x"}});
         return Sent(Complete(engine.get(), request).second.status());
       }},
  };
}

std::map<std::string, Case> StateCases() {
  return {
      {reason::kSessionNotFound,
       [] {
         TestServer server;
         return Rewind(&server, "sessions/none", 0);
       }},
      {reason::kModelNotFound,
       [] {
         TestServer server;
         grpc::ClientContext context;
         v1::GetModelRequest request;
         request.set_name("models/none");
         v1::Model model;
         return server.models().GetModel(&context, request, &model);
       }},
      {reason::kTraceNotFound,
       [] {
         TestServer server;
         grpc::ClientContext context;
         v1::TraceRequest request;
         request.set_session(server.NewSession());
         const auto stream = server.inference().Trace(&context, request);
         v1::TraceResponse response;
         EXPECT_FALSE(stream->Read(&response));
         return stream->Finish();
       }},
      {reason::kSessionBusy,
       [] {
         TestServer server(65536);
         const std::string session = server.NewSession();
         grpc::ClientContext context;
         const auto stream =
             server.inference().Generate(&context, RequestFor(session, "go", 60000));
         v1::GenerateResponse response;
         EXPECT_TRUE(stream->Read(&response));
         const grpc::Status status = server.Generate(RequestFor(session, "", 1)).status;
         context.TryCancel();
         while (stream->Read(&response)) {
         }
         (void)stream->Finish();
         return status;
       }},
      {reason::kEtagMismatch,
       [] {
         TestServer server;
         return Rewind(&server, server.NewSession(), 0, "another");
       }},
      {reason::kTokenMissing, [] { return ListWithToken(*WithTokens(), ""); }},
      {reason::kTokenInvalid, [] { return ListWithToken(*WithTokens(), "Bearer no-such-token"); }},
      {reason::kCertificateUnusable,
       [] { return ListWithToken(**server::Authenticator::Create({}), ""); }},
      {reason::kDraining,
       [] {
         TestServer server;
         server.engine().StartDrain();
         return server.Generate(RequestFor("", "x", 1)).status;
       }},
      {reason::kCancelled,
       [] { return Interrupt([](auto*, engine::Call* call, auto) { call->cancel->Cancel(); }); }},
      {reason::kCallAborted,
       [] {
         TestServer server(65536);
         const std::string session = server.NewSession();
         grpc::ClientContext context;
         const auto stream =
             server.inference().Generate(&context, RequestFor(session, "go", 60000));
         v1::GenerateResponse response;
         EXPECT_TRUE(stream->Read(&response));
         grpc::ClientContext abort_context;
         v1::AbortRequest abort;
         abort.set_session(session);
         v1::AbortResponse aborted;
         EXPECT_TRUE(server.inference().Abort(&abort_context, abort, &aborted).ok());
         EXPECT_EQ(aborted.aborted_calls(), 1);
         while (stream->Read(&response)) {
         }
         return stream->Finish();
       }},
      {reason::kSessionDeleted,
       [] {
         return Interrupt([](engine::Engine* engine, auto*, const std::string& id) {
           EXPECT_TRUE(engine->DeleteSession(id).ok());
         });
       }},
      {reason::kDeadlineExceeded,
       [] {
         auto engine = MakeTinyEngine();
         engine::GenerateRequest request = engine::Ask("", "x", 1);
         request.deadline = engine::Clock::now() - std::chrono::seconds(1);
         return Sent(Complete(engine.get(), request).second.status());
       }},
      {reason::kEngineFault,
       [] {
         engine::GatedEngine gated;
         gated.hook->Set([] { return absl::InternalError("a kernel was not launched"); });
         return Sent(Complete(gated.engine.get(), engine::Ask("", "x", 1)).second.status());
       }},
      {reason::kDeviceLost,
       [] {
         engine::GatedEngine gated;
         gated.hook->Set([] { return absl::UnavailableError("the device is gone"); });
         return Sent(Complete(gated.engine.get(), engine::Ask("", "x", 1)).second.status());
       }},
  };
}

std::map<std::string, Case> LimitCases() {
  return {
      {reason::kQueueFull,
       [] {
         engine::EngineOptions options;
         options.max_running = 1;
         options.max_waiting = 0;
         return TwoAtOnce(options);
       }},
      {reason::kTenantRequestLimit,
       [] {
         engine::EngineOptions options;
         options.sessions.tenant.max_requests = 1;
         return TwoAtOnce(options);
       }},
      {reason::kServerBusy,
       [] {
         TestServer server;
         server::CallExecutor nobody(1, 0);
         server::ServiceContext context = server.context();
         context.workers = &nobody;
         const auto busy = *server::GrpcServer::Start({}, context);
         grpc::ClientContext call;
         v1::ListModelsResponse response;
         return v1::ModelService::NewStub(busy->server()->InProcessChannel({}))
             ->ListModels(&call, {}, &response);
       }},
      {reason::kUploadLimit, [] { return AppendBesideAnOpenOne({"--max_uploads=1"}); }},
      // That callers are told apart is enough: the file is not read here.
      {reason::kTenantUploadLimit,
       [] {
         return AppendBesideAnOpenOne({"--max_uploads=2", "--auth_tokens=unread"});
       }},
      {reason::kUploadStalled,
       [] {
         TestServer server;
         grpc::ClientContext context;
         const auto open = server.inference().Append(&context);
         server::RunningCalls* calls = server.context().calls;
         EXPECT_TRUE(Eventually([&] { return calls->uploads() == 1; }));
         EXPECT_TRUE(Eventually([&] {
           calls->EndStalledUploads(engine::Clock::now());
           return calls->uploads() == 0;
         }));
         return open->Finish();
       }},
      {reason::kKvExhausted,
       [] {
         TinyEngineOptions options;
         options.engine.kv_memory_bytes = 200u << 10;
         auto engine = MakeTinyEngine(std::move(options));
         const int32_t most = engine->max_context();
         engine::Call first =
             engine::Start(engine.get(), engine::Ask("", engine::Words(most - 50), 20), 2);
         first.sink->WaitForTokens(2);
         const absl::Status status =
             Complete(engine.get(), engine::Ask("", engine::Words(100, 2), 1)).second.status();
         first.cancel->Cancel();
         return Sent(status);
       }},
      {reason::kTenantKvLimit,
       [] {
         TinyEngineOptions options;
         options.engine.kv_memory_bytes = 200u << 10;
         options.engine.sessions.tenant.max_kv_share = 0.1;
         auto engine = MakeTinyEngine(std::move(options));
         return Sent(
             Complete(engine.get(), engine::Ask("", engine::Words(100), 1)).second.status());
       }},
      {reason::kDeadlineTooShort,
       [] {
         TestServer server;
         server.engine().metrics().prefill_tokens_per_second.store(0.001);
         grpc::ClientContext context;
         context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
         const auto stream = server.inference().Generate(&context, RequestFor("", "prompt", 1));
         v1::GenerateResponse response;
         EXPECT_FALSE(stream->Read(&response));
         return stream->Finish();
       }},
      {reason::kSessionLimit,
       [] {
         engine::SessionLimits limits;
         limits.max_sessions = 1;
         return SessionsAtMost(limits);
       }},
      {reason::kTenantSessionLimit,
       [] {
         engine::SessionLimits limits;
         limits.tenant.max_sessions = 1;
         return SessionsAtMost(limits);
       }},
      {reason::kTenantTokenLimit,
       [] {
         TestServer server(128, {"--tenant_max_tokens=5"});
         return server.Append(server.NewSession(), {Text("more than five")}).status;
       }},
  };
}

TEST(ErrorReasonsTest, EachOfTheCatalogueIsGivenAsPromised) {
  std::map<std::string, Case> cases = ArgumentCases();
  cases.merge(StateCases());
  cases.merge(LimitCases());
  EXPECT_EQ(cases.size(), engine::ErrorCatalogue().size());
  for (const engine::ReasonInfo& info : engine::ErrorCatalogue()) {
    SCOPED_TRACE(info.reason);
    const auto found = cases.find(info.reason);
    ASSERT_NE(found, cases.end()) << "no test brings this about";
    const grpc::Status status = found->second();
    EXPECT_EQ(static_cast<int>(status.error_code()), static_cast<int>(info.code))
        << status.error_message();
    const google::rpc::ErrorInfo error = InfoOf(status);
    EXPECT_EQ(error.reason(), info.reason);
    EXPECT_EQ(RetryOf(status).has_value(), info.retry_info);
    std::istringstream keys(info.metadata);
    for (std::string key; keys >> key;) EXPECT_TRUE(error.metadata().contains(key)) << key;
  }
}

}  // namespace
}  // namespace spotd::testing
