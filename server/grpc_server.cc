#include "server/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>

#include <array>
#include <climits>

#include "kernels/core/status.h"
#include "server/reply_limit.h"

namespace spotd::server {
namespace {

constexpr std::array<const char*, 3> kServiceNames = {
    "spotd.v1.SessionService", "spotd.v1.InferenceService", "spotd.v1.ModelService"};

// During a long prefill no data flows; clients and proxies may ping meanwhile, also without calls.
void SetConnectionOptions(const GrpcOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  builder->SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // two servers on one port: an error
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              static_cast<int>(options.min_ping_interval.count()));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                              options.keepalive_time.count() == 0
                                  ? INT_MAX
                                  : static_cast<int>(options.keepalive_time.count()));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              static_cast<int>(options.keepalive_timeout.count()));
  if (options.max_connection_age.count() > 0) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                static_cast<int>(options.max_connection_age.count()));
    // Calls that run then may end; gRPC itself spreads the ages by 10 %.
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 3'600'000);
  }
}

}  // namespace

struct GrpcServer::Impl {
  std::array<std::unique_ptr<grpc::Service>, 3> services;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() {
  Shutdown(std::chrono::system_clock::now());
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcOptions& options,
                                                              const ServiceContext& context) {
  grpc::EnableDefaultHealthCheckService(true);
  if (options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto impl = std::make_unique<Impl>();
  impl->services = {NewSessionService(context), NewInferenceService(context),
                    NewModelService(context)};

  grpc::ServerBuilder builder;
  SetConnectionOptions(options, &builder);
  if (!options.listen.empty()) {
    builder.AddListeningPort(
        options.listen,
        options.credentials != nullptr ? options.credentials : grpc::InsecureServerCredentials(),
        &impl->port);
  }
  for (const auto& service : impl->services) builder.RegisterService(service.get());
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || (!options.listen.empty() && impl->port == 0)) {
    return FailedPrecondition("cannot listen on ", options.listen,
                              ": the port is in use or the address is not this machine's");
  }
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(impl)));
  server->SetServing(/*live=*/true, /*ready=*/true);
  return server;
}

int GrpcServer::port() const {
  return impl_->port;
}

void GrpcServer::SetServing(bool live, bool ready) {
  grpc::HealthCheckServiceInterface* health = impl_->server->GetHealthCheckService();
  health->SetServingStatus("", live);
  for (const char* name : kServiceNames) health->SetServingStatus(name, ready);
}

void GrpcServer::Shutdown(std::chrono::system_clock::time_point deadline) {
  impl_->server->Shutdown(deadline);
}

grpc::Server* GrpcServer::server() {
  return impl_->server.get();
}

}  // namespace spotd::server
