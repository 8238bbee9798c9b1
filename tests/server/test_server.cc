#include "tests/server/test_server.h"

#include <gtest/gtest.h>

#include <iostream>

#include "google/rpc/status.pb.h"
#include "kernels/core/check.h"
#include "server/config.h"
#include "tests/server/test_model.h"

namespace spotd::testing {
namespace {

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) std::cerr << value.status() << std::endl;
  SPOTD_CHECK(value.ok());
  return *std::move(value);
}

server::ServerConfig ConfigFor(int32_t context_length, std::vector<std::string> flags) {
  flags.insert(flags.begin(), {"--model=" + TinyModel(context_length), "--kv_memory=64MiB",
                               "--threads=1", "--backend=ref", "--dense_below_tokens=0"});
  std::vector<const char*> args;
  for (const std::string& flag : flags) args.push_back(flag.c_str());
  return ValueOrDie(server::ParseConfig(args, [](const char*) -> const char* { return nullptr; }));
}

google::rpc::Status RichStatus(const grpc::Status& status) {
  google::rpc::Status rich;
  EXPECT_TRUE(rich.ParseFromString(status.error_details()));
  return rich;
}

template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  Detail detail;
  const google::rpc::Status rich = RichStatus(status);
  for (const auto& any : rich.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

}  // namespace

TestServer::TestServer(int32_t context_length, std::vector<std::string> flags,
                       const server::IdentityProvider* identity,
                       const server::DeviceOpener& open_device) {
  const server::ServerConfig config = ConfigFor(context_length, std::move(flags));
  engine_ =
      ValueOrDie(server::LoadEngine(config, ValueOrDie(config.DefaultPolicy(false)), open_device));
  workers_ = std::make_unique<server::CallExecutor>(2, 64);
  writers_ = std::make_unique<server::CallExecutor>(1, SIZE_MAX);
  calls_ = std::make_unique<server::RunningCalls>(server::UploadLimits{
      .all = config.limits.max_uploads, .tenant_percent = config.tenant_upload_percent()});
  context_ = {.engine = engine_.get(),
              .workers = workers_.get(),
              .writers = writers_.get(),
              .metrics = &rpc_metrics_,
              .identity = identity,
              .calls = calls_.get(),
              .max_prompt_bytes = config.max_prompt.bytes,
              .block_tokens = config.block_tokens};
  grpc_server_ = ValueOrDie(server::GrpcServer::Start({}, context_));
  channel_ = grpc_server_->server()->InProcessChannel({});
  sessions_ = v1::SessionService::NewStub(channel_);
  inference_ = v1::InferenceService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
}

// As in spotd: gRPC first, then the engine (which ends what runs), then the threads that still
// send.
TestServer::~TestServer() {
  grpc_server_.reset();
  engine_.reset();
}

std::string TestServer::NewSession() {
  grpc::ClientContext context;
  v1::Session session;
  const grpc::Status status = sessions_->CreateSession(&context, {}, &session);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return session.name();
}

v1::Session TestServer::GetSession(const std::string& name) {
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_name(name);
  v1::Session session;
  const grpc::Status status = sessions_->GetSession(&context, request, &session);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return session;
}

TestServer::Appended TestServer::Append(const std::string& session,
                                        const std::vector<v1::Input>& pieces) {
  grpc::ClientContext context;
  const auto stream = inference_->Append(&context);
  v1::AppendRequest request;
  request.set_session(session);
  bool open = pieces.empty() ? stream->Write(request) : true;
  for (const v1::Input& piece : pieces) {
    if (!open) break;
    *request.add_input() = piece;
    open = stream->Write(request);
    request.Clear();
  }
  if (open) stream->WritesDone();
  Appended appended;
  for (v1::AppendResponse response; stream->Read(&response);) {
    if (response.has_prefill()) appended.progress.push_back(response.prefill());
    if (response.has_result()) appended.result = response.result();
  }
  appended.status = stream->Finish();
  return appended;
}

TestServer::Generated TestServer::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, request);
  Generated generated;
  for (v1::GenerateResponse response; stream->Read(&response);) {
    EXPECT_FALSE(generated.result.has_value()) << "the result is the last message";
    if (response.has_delta()) {
      generated.text += response.delta().text();
      for (int32_t id : response.delta().token_ids()) generated.tokens.push_back(id);
      EXPECT_EQ(response.delta().token_ids_size(), response.delta().logprobs_size());
    }
    if (response.has_result()) generated.result = response.result();
  }
  generated.status = stream->Finish();
  return generated;
}

void TestServer::ExpectServing() {
  const std::string session = NewSession();
  const Appended appended = Append(session, {Text("still here")});
  EXPECT_TRUE(appended.status.ok()) << appended.status.error_message();
  const Generated generated = Generate(RequestFor(session, "", 3));
  EXPECT_TRUE(generated.status.ok()) << generated.status.error_message();
  EXPECT_EQ(generated.tokens.size(), 3u);
  grpc::ClientContext context;
  v1::DeleteSessionRequest request;
  request.set_name(session);
  google::protobuf::Empty empty;
  EXPECT_TRUE(sessions_->DeleteSession(&context, request, &empty).ok());
}

v1::Input Text(const std::string& text) {
  v1::Input input;
  input.set_text(text);
  return input;
}

v1::Input Chunk(const std::string& bytes) {
  v1::Input input;
  input.set_text_chunk(bytes);
  return input;
}

v1::Input Tokens(const std::vector<int32_t>& ids) {
  v1::Input input;
  input.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  return input;
}

v1::Input Message(const std::string& role, const std::string& content) {
  v1::Input input;
  v1::ChatMessage* message = input.mutable_messages()->add_messages();
  message->set_role(role);
  message->set_content(content);
  return input;
}

v1::GenerateRequest RequestFor(const std::string& session, const std::string& prompt,
                               int32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_session(session);
  if (!prompt.empty()) *request.add_prompt() = Text(prompt);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

google::rpc::ErrorInfo InfoOf(const grpc::Status& status) {
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  EXPECT_TRUE(info.has_value()) << status.error_message();
  if (!info.has_value()) return {};
  EXPECT_EQ(info->domain(), "spotd.v1");
  return *info;
}

std::string FieldOf(const grpc::Status& status) {
  const auto bad_request = DetailOf<google::rpc::BadRequest>(status);
  if (!bad_request.has_value() || bad_request->field_violations().empty()) return "";
  return bad_request->field_violations(0).field();
}

std::optional<google::rpc::RetryInfo> RetryOf(const grpc::Status& status) {
  return DetailOf<google::rpc::RetryInfo>(status);
}

}  // namespace spotd::testing
