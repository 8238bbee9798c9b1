// A whole server without a port: tiny model, engine, services, and stubs over an in-process
// channel.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "runtime/engine/engine.h"
#include "server/call_executor.h"
#include "server/grpc_server.h"
#include "server/model_loader.h"
#include "server/rpc_metrics.h"
#include "server/service_context.h"
#include "spotd/v1/inference.grpc.pb.h"
#include "spotd/v1/models.grpc.pb.h"
#include "spotd/v1/sessions.grpc.pb.h"

namespace spotd::testing {

class TestServer {
 public:
  // `flags` are spotd's, without --model.
  explicit TestServer(int32_t context_length = 128, std::vector<std::string> flags = {},
                      const server::IdentityProvider* identity = nullptr,
                      const server::DeviceOpener& open_device = server::OpenDevice);
  ~TestServer();

  engine::Engine& engine() { return *engine_; }
  server::GrpcServer& grpc() { return *grpc_server_; }
  server::RpcMetrics& rpc_metrics() { return rpc_metrics_; }
  const server::ServiceContext& context() const { return context_; }
  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }

  v1::SessionService::Stub& sessions() { return *sessions_; }
  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::ModelService::Stub& models() { return *models_; }

  // The name of a new session.
  std::string NewSession();
  v1::Session GetSession(const std::string& name);

  struct Appended {
    grpc::Status status;
    v1::AppendResult result;
    std::vector<v1::PrefillProgress> progress;
  };
  // One AppendRequest for each piece.
  Appended Append(const std::string& session, const std::vector<v1::Input>& pieces);

  struct Generated {
    grpc::Status status;
    std::string text;
    std::vector<int32_t> tokens;
    std::optional<v1::GenerateResult> result;
  };
  Generated Generate(const v1::GenerateRequest& request);

  // That the server still does its main job: a session, an append, an answer.
  void ExpectServing();

 private:
  std::unique_ptr<engine::Engine> engine_;
  server::RpcMetrics rpc_metrics_;
  std::unique_ptr<server::RunningCalls> calls_;
  std::unique_ptr<server::CallExecutor> workers_;
  std::unique_ptr<server::CallExecutor> writers_;
  server::ServiceContext context_;
  std::unique_ptr<server::GrpcServer> grpc_server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

v1::Input Text(const std::string& text);
v1::Input Chunk(const std::string& bytes);
v1::Input Tokens(const std::vector<int32_t>& ids);
v1::Input Message(const std::string& role, const std::string& content);

// A request for `max_tokens` tokens after `prompt`, never stopping early.
v1::GenerateRequest RequestFor(const std::string& session, const std::string& prompt,
                               int32_t max_tokens);

// The ErrorInfo of a status; fails the test when there is none.
google::rpc::ErrorInfo InfoOf(const grpc::Status& status);
// The first field that BadRequest names; empty when there is none.
std::string FieldOf(const grpc::Status& status);
std::optional<google::rpc::RetryInfo> RetryOf(const grpc::Status& status);

// Waits until `condition` holds; false after a minute, which a busy machine may need.
template <typename F>
bool Eventually(F condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace spotd::testing
