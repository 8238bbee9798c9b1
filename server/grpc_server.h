// The gRPC endpoint: services, health with Check and Watch, reflection, keepalive and size limits.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/service_context.h"

namespace grpc {
class Server;
class ServerCredentials;
}  // namespace grpc

namespace spotd::server {

struct GrpcOptions {
  std::string listen;  // HOST:PORT; empty: no port, in-process channels only
  bool reflection = true;
  std::chrono::milliseconds max_connection_age{0};  // 0 = for ever
  std::chrono::milliseconds keepalive_time{
      60'000};  // between our pings where nothing moves; 0 = none
  std::chrono::milliseconds keepalive_timeout{20'000};  // without an answer: the client is gone
  std::chrono::milliseconds min_ping_interval{10'000};  // clients that ping more are cut off
  std::shared_ptr<grpc::ServerCredentials> credentials = nullptr;  // null: plaintext
};

class GrpcServer {
 public:
  // FAILED_PRECONDITION when the address cannot be listened on. `context` must outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcOptions& options,
                                                           const ServiceContext& context);
  ~GrpcServer();

  int port() const;
  // What health checks answer: "" is the process, the services' names are readiness.
  void SetServing(bool live, bool ready);
  // Refuses new calls, lets running ones end until `deadline`, then cancels them.
  void Shutdown(std::chrono::system_clock::time_point deadline);

  grpc::Server* server();  // for in-process channels

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spotd::server
