// Health, reflection, ports and the graceful end.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/lifecycle.h"
#include "tests/runtime/hooked_backend.h"
#include "tests/server/raw_call.h"
#include "tests/server/test_server.h"

namespace spotd::testing {
namespace {

using grpc::health::v1::HealthCheckResponse;

grpc::Status Check(TestServer* server, const std::string& service, HealthCheckResponse* response) {
  const auto stub = grpc::health::v1::Health::NewStub(server->channel());
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  return stub->Check(&context, request, response);
}

TEST(GrpcServerTest, EveryServiceIsServing) {
  TestServer server;
  for (const char* name :
       {"", "spotd.v1.SessionService", "spotd.v1.InferenceService", "spotd.v1.ModelService"}) {
    HealthCheckResponse response;
    EXPECT_TRUE(Check(&server, name, &response).ok()) << name;
    EXPECT_EQ(response.status(), HealthCheckResponse::SERVING) << name;
  }
  HealthCheckResponse response;
  EXPECT_EQ(Check(&server, "no.such.Service", &response).error_code(), grpc::NOT_FOUND);
}

TEST(GrpcServerTest, WatchTellsOfAChange) {
  TestServer server;
  const auto stub = grpc::health::v1::Health::NewStub(server.channel());
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("spotd.v1.InferenceService");
  const auto stream = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server.grpc().SetServing(/*live=*/true, /*ready=*/false);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
  stream->Finish();
}

TEST(GrpcServerTest, ReflectionListsTheServices) {
  TestServer server;
  // ServerReflectionRequest{list_services: ""}
  std::vector<std::string> responses;
  const grpc::Status status =
      RawUnary(server.channel(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
               std::string("\x3a\x00", 2), &responses);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(responses.size(), 1u);
  for (const char* name :
       {"spotd.v1.SessionService", "spotd.v1.InferenceService", "spotd.v1.ModelService"}) {
    EXPECT_NE(responses[0].find(name), std::string::npos) << name;
  }
}

TEST(GrpcServerTest, LogsRequestIdAndTraceAndEchoesTheId) {
  TestServer server;
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "order-66");
  context.AddMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  v1::ListModelsResponse response;
  ::testing::internal::CaptureStderr();
  const grpc::Status status = server.models().ListModels(&context, {}, &response);
  const std::string log = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto echoed = context.GetServerInitialMetadata().find("x-request-id");
  ASSERT_NE(echoed, context.GetServerInitialMetadata().end());
  EXPECT_EQ(echoed->second, "order-66");
  for (const char* part : {"request_id=order-66", "trace_id=0af7651916cd43dd8448eb211c80319c",
                           "parent_id=b7ad6b7169203331", "tenant=default"}) {
    EXPECT_NE(log.find(part), std::string::npos) << part << " in " << log;
  }
}

TEST(GrpcServerTest, APortInUseIsAnErrorThatNamesIt) {
  TestServer server;
  const server::ServiceContext& context = server.context();
  const auto first = server::GrpcServer::Start({.listen = "127.0.0.1:0"}, context);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_GT((*first)->port(), 0);
  const std::string taken = "127.0.0.1:" + std::to_string((*first)->port());
  const auto second = server::GrpcServer::Start({.listen = taken}, context);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(taken), std::string::npos) << second.status();
}

// A channel of its own that pings every 50 ms, whether or not data flows.
std::shared_ptr<grpc::Channel> PingingChannel(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 50);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                   grpc::InsecureChannelCredentials(), arguments);
}

// How a health Watch of `milliseconds`, on which nothing moves after the first message, ends.
grpc::Status WatchFor(const std::shared_ptr<grpc::Channel>& channel, int milliseconds) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(milliseconds));
  const auto stub = grpc::health::v1::Health::NewStub(channel);
  const auto stream = stub->Watch(&context, {});
  HealthCheckResponse response;
  while (stream->Read(&response)) {
  }
  return stream->Finish();
}

TEST(KeepaliveTest, PingsNeitherCutIdleStreamsNorALongPrefill) {
  TestServer server(4096, {"--max_prefill_chunk=4096"});
  const auto listening =
      server::GrpcServer::Start({.listen = "127.0.0.1:0",
                                 .keepalive_time = std::chrono::milliseconds(100),
                                 .keepalive_timeout = std::chrono::milliseconds(5000),
                                 .min_ping_interval = std::chrono::milliseconds(10)},
                                server.context());
  ASSERT_TRUE(listening.ok()) << listening.status();
  const auto channel = PingingChannel((*listening)->port());
  // Fifteen times the server's own interval, and some thirty pings of the client's.
  EXPECT_EQ(WatchFor(channel, 1500).error_code(), grpc::DEADLINE_EXCEEDED);

  // One step of some seconds, in which not a byte flows.
  const auto stub = v1::InferenceService::NewStub(channel);
  grpc::ClientContext context;
  v1::GenerateRequest request = RequestFor("", "", 1);
  *request.add_prompt() = Tokens(std::vector<int32_t>(4000, 9));
  const auto stream = stub->Generate(&context, request);
  v1::GenerateResponse response;
  bool finished = false;
  while (stream->Read(&response)) finished = finished || response.has_result();
  const grpc::Status status = stream->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(finished);
}

TEST(KeepaliveTest, WhoPingsMoreThanMayIsCutOff) {
  TestServer server;
  const auto listening = server::GrpcServer::Start(
      {.listen = "127.0.0.1:0", .min_ping_interval = std::chrono::minutes(1)}, server.context());
  ASSERT_TRUE(listening.ok()) << listening.status();
  EXPECT_EQ(WatchFor(PingingChannel((*listening)->port()), 60000).error_code(), grpc::UNAVAILABLE);
}

// A server whose steps end with the hook.
TestServer HookedServer(const std::shared_ptr<StepHook>& hook) {
  return TestServer(65536, {}, nullptr, [hook](const server::ServerConfig& config) {
    auto device = server::OpenDevice(config);
    EXPECT_TRUE(device.ok());
    return absl::StatusOr<std::unique_ptr<kernels::Backend>>(
        std::make_unique<HookedBackend>(*std::move(device), hook));
  });
}

TEST(LifecycleTest, ASignalDrains) {
  server::BlockShutdownSignals();
  TestServer server(65536);
  grpc::ClientContext context;
  const auto stream = server.inference().Generate(&context, RequestFor("", "running", 300));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));

  server::Lifecycle lifecycle({}, &server.engine(), &server.rpc_metrics(), server.context().calls,
                              &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  pthread_kill(run.native_handle(), SIGTERM);
  ASSERT_TRUE(Eventually([&] { return lifecycle.state() == server::EngineState::kDraining; }));
  HealthCheckResponse health;
  ASSERT_TRUE(Check(&server, "spotd.v1.InferenceService", &health).ok());
  EXPECT_EQ(health.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_TRUE(Eventually([&] {
    const grpc::Status status = server.Generate(RequestFor("", "too late", 1)).status;
    return status.error_code() == grpc::UNAVAILABLE && InfoOf(status).reason() == "DRAINING";
  }));

  int tokens = 0;
  bool finished = false;
  do {
    tokens += response.delta().token_ids_size();
    finished = finished || response.has_result();
  } while (stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(finished) << "what ran may end";
  EXPECT_EQ(tokens, 300);
  run.join();
}

// A step that lasts too long looks hung until it ends; then the server recovers by itself.
TEST(LifecycleTest, AnEngineThatMakesNoProgressIsNotLive) {
  server::BlockShutdownSignals();
  const auto hook = std::make_shared<StepHook>();
  TestServer server = HookedServer(hook);
  std::promise<void> go_on;
  hook->Set([held = go_on.get_future().share()] {
    held.wait();
    return absl::OkStatus();
  });
  server::Lifecycle lifecycle({.stall_timeout = std::chrono::milliseconds(1)}, &server.engine(),
                              &server.rpc_metrics(), server.context().calls, &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  std::thread append(
      [&] { EXPECT_TRUE(server.Append(server.NewSession(), {Text("some text")}).status.ok()); });
  ASSERT_TRUE(Eventually([&] { return lifecycle.state() == server::EngineState::kStalled; }));
  HealthCheckResponse health;
  ASSERT_TRUE(Check(&server, "", &health).ok());
  EXPECT_EQ(health.status(), HealthCheckResponse::NOT_SERVING);
  go_on.set_value();
  append.join();
  EXPECT_TRUE(Eventually([&] { return lifecycle.state() == server::EngineState::kReady; }));
  ASSERT_TRUE(Check(&server, "", &health).ok());
  EXPECT_EQ(health.status(), HealthCheckResponse::SERVING);
  pthread_kill(run.native_handle(), SIGTERM);
  run.join();
}

// A GPU that is lost in the middle of an answer: the client hears of it, health follows, and nobody
// waits.
TEST(LifecycleTest, ALostDeviceIsNotServing) {
  server::BlockShutdownSignals();
  const auto hook = std::make_shared<StepHook>();
  TestServer server = HookedServer(hook);
  server::Lifecycle lifecycle({}, &server.engine(), &server.rpc_metrics(), server.context().calls,
                              &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  grpc::ClientContext context;
  const auto stream = server.inference().Generate(&context, RequestFor("", "running", 60000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  hook->Set([] { return absl::UnavailableError("the GPU fell off the bus"); });
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(InfoOf(status).reason(), "DEVICE_LOST");
  ASSERT_TRUE(Eventually([&] { return lifecycle.state() == server::EngineState::kStalled; }));
  for (const char* service : {"", "spotd.v1.InferenceService"}) {
    HealthCheckResponse health;
    ASSERT_TRUE(Check(&server, service, &health).ok());
    EXPECT_EQ(health.status(), HealthCheckResponse::NOT_SERVING) << service;
  }
  EXPECT_EQ(server.Generate(RequestFor("", "x", 1)).status.error_code(), grpc::UNAVAILABLE);
  pthread_kill(run.native_handle(), SIGTERM);
  run.join();
}

// A reader that stops is no fault of the engine, however long it stops.
TEST(LifecycleTest, WaitingForASlowReaderIsNotBeingHung) {
  server::BlockShutdownSignals();
  TestServer server(65536);
  grpc::ClientContext context;
  const auto stream = server.inference().Generate(&context, RequestFor("", "running", 60000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  const engine::Metrics& metrics = server.engine().metrics();
  uint64_t steps = 0;
  ASSERT_TRUE(Eventually([&] {  // until the engine has paused it
    const uint64_t before = std::exchange(steps, metrics.engine_steps.load());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return before == steps;
  }));
  server::Lifecycle lifecycle({.stall_timeout = std::chrono::milliseconds(400)}, &server.engine(),
                              &server.rpc_metrics(), server.context().calls, &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(1700));  // three looks
  // On a busy machine a look may find that the engine thread had no core. The next one does not.
  EXPECT_TRUE(Eventually([&] { return lifecycle.state() == server::EngineState::kReady; }));
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  (void)stream->Finish();
  pthread_kill(run.native_handle(), SIGTERM);
  run.join();
}

TEST(LifecycleTest, TheDrainTimeoutCutsWhatStillRuns) {
  server::BlockShutdownSignals();
  TestServer server(65536);
  grpc::ClientContext context;
  const auto stream = server.inference().Generate(&context, RequestFor("", "running", 60000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  server::Lifecycle lifecycle({.drain_timeout = std::chrono::milliseconds(50)}, &server.engine(),
                              &server.rpc_metrics(), server.context().calls, &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  pthread_kill(run.native_handle(), SIGTERM);
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE) << "another server may take it";
  EXPECT_EQ(InfoOf(status).reason(), "DRAINING");
  run.join();
}

// The writer thread may hold a call when gRPC has long ended it, and lets go of it into what the
// server still has.
TEST(LifecycleTest, ACallMayOutliveGrpc) {
  std::atomic<bool> ended = false;
  {
    TestServer server;
    auto call = std::make_shared<server::RunningCalls::Handle>(
        server.context().calls->Add({"tenant", "id", ""}, std::make_shared<engine::CancelToken>()));
    ASSERT_TRUE(server.context().writers->Submit([&ended, call = std::move(call)]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      call.reset();
      ended = true;
    }));
  }
  EXPECT_TRUE(ended);
}

// What an upload would add to goes with the server: it ends at once, long before the grace does,
// and so does one that comes later. Replies go on.
TEST(LifecycleTest, UploadsEndAtOnce) {
  server::BlockShutdownSignals();
  TestServer server(65536);
  grpc::ClientContext running_context;
  const auto running =
      server.inference().Generate(&running_context, RequestFor("", "running", 60000));
  v1::GenerateResponse token;
  ASSERT_TRUE(running->Read(&token));
  v1::AppendRequest piece;
  piece.set_session(server.NewSession());
  *piece.add_input() = Text("the beginning");
  const auto begin = [&](grpc::ClientContext* context) {
    auto stream = server.inference().Append(context);
    stream->Write(piece);  // fails where the call has ended already
    return stream;
  };
  const auto expect_end = [](auto* stream) {
    v1::AppendResponse response;
    EXPECT_FALSE(stream->Read(&response));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
    EXPECT_EQ(InfoOf(status).reason(), "DRAINING");
  };
  grpc::ClientContext context;
  const auto upload = begin(&context);
  server::Lifecycle lifecycle({.drain_timeout = std::chrono::hours(1)}, &server.engine(),
                              &server.rpc_metrics(), server.context().calls, &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  pthread_kill(run.native_handle(), SIGTERM);
  expect_end(upload.get());
  grpc::ClientContext late_context;
  expect_end(begin(&late_context).get());
  EXPECT_TRUE(running->Read(&token));
  running_context.TryCancel();
  while (running->Read(&token)) {
  }
  (void)running->Finish();
  run.join();
}

TEST(LifecycleTest, UploadsThatStallEnd) {
  server::BlockShutdownSignals();
  TestServer server;
  grpc::ClientContext context;
  const auto upload = server.inference().Append(&context);
  server::Lifecycle lifecycle({.upload_timeout = std::chrono::milliseconds(1)}, &server.engine(),
                              &server.rpc_metrics(), server.context().calls, &server.grpc());
  std::thread run([&] { lifecycle.Run(); });
  const grpc::Status status = upload->Finish();
  EXPECT_EQ(status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_EQ(InfoOf(status).reason(), "UPLOAD_STALLED");
  pthread_kill(run.native_handle(), SIGTERM);
  run.join();
}

}  // namespace
}  // namespace spotd::testing
