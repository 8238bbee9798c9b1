// spotd: parse, build bottom-up, serve, drain.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>

#include "absl/synchronization/mutex.h"
#include "kernels/core/status.h"
#include "runtime/engine/engine.h"
#include "server/call_executor.h"
#include "server/config.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/lifecycle.h"
#include "server/log.h"
#include "server/metrics_exporter.h"
#include "server/model_loader.h"
#include "server/rpc_metrics.h"
#include "server/service_context.h"
#include "server/version.h"

namespace spotd::server {
namespace {

constexpr int kRuntimeError = 1;
constexpr int kUsageError = 2;
constexpr int kWorkerThreads = 4;
constexpr size_t kMaxQueuedCalls = 1024;

std::string HostOf(const std::string& address) {
  return address.substr(0, address.rfind(':'));
}

absl::StatusOr<std::unique_ptr<HttpServer>> StartHttp(const ServerConfig& config,
                                                      const MetricsExporter& exporter,
                                                      const Lifecycle& lifecycle) {
  if (config.http_listen == "off") return nullptr;
  HttpServer::Pages pages;
  pages.metrics = [&] { return HttpPage{200, exporter.Text(lifecycle.state())}; };
  pages.live = [&] {
    return lifecycle.state() == EngineState::kStalled ? HttpPage{503, "stalled\n"}
                                                      : HttpPage{200, "ok\n"};
  };
  pages.ready = [&] {
    return lifecycle.state() == EngineState::kReady ? HttpPage{200, "ok\n"}
                                                    : HttpPage{503, "not ready\n"};
  };
  return HttpServer::Start(config.http_listen, std::move(pages));
}

// Blocks until the server has drained.
absl::Status Serve(const ServerConfig& config, const model::Policy& policy) {
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine, LoadEngine(config, policy));
  RpcMetrics rpc_metrics;
  CallExecutor workers(kWorkerThreads, kMaxQueuedCalls);
  CallExecutor writers(1, SIZE_MAX);
  const ServiceContext context{.engine = engine.get(),
                               .workers = &workers,
                               .writers = &writers,
                               .metrics = &rpc_metrics,
                               .identity = nullptr,
                               .max_prompt_bytes = config.max_prompt.bytes,
                               .block_tokens = config.block_tokens};
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> grpc_server,
                         GrpcServer::Start({.listen = config.listen,
                                            .reflection = config.reflection,
                                            .max_connection_age = config.max_connection_age},
                                           context));
  const MetricsExporter exporter(engine.get(), &rpc_metrics);
  Lifecycle lifecycle(
      {.drain_timeout = config.drain_timeout, .stall_timeout = config.stall_timeout}, engine.get(),
      &rpc_metrics, grpc_server.get());
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<HttpServer> http,
                         StartHttp(config, exporter, lifecycle));
  Log(LogLevel::kInfo, "serving",
      {{"grpc", Concat(HostOf(config.listen), ":", grpc_server->port())},
       {"http", http == nullptr ? "off" : Concat(HostOf(config.http_listen), ":", http->port())},
       {"model", engine->model_id()},
       {"context", Concat(engine->max_context())},
       {"policy", std::string(model::PolicyName(policy.kind))},
       {"version", kVersion}});
  lifecycle.Run();
  return absl::OkStatus();
}

int Main(std::span<const char* const> args) {
  const absl::StatusOr<ServerConfig> config = ParseConfig(args, &std::getenv);
  if (config.ok() && config->help) {
    std::fputs(HelpText().c_str(), stdout);
    return 0;
  }
  if (config.ok() && config->version) {
    std::printf("spotd %s\n", kVersion);
    return 0;
  }
  const absl::StatusOr<model::Policy> policy =
      config.ok() ? config->DefaultPolicy(!config->selector.empty()) : config.status();
  if (!policy.ok()) {
    std::fprintf(stderr, "spotd: %s\n", std::string(policy.status().message()).c_str());
    return kUsageError;
  }
  BlockShutdownSignals();
  if (const absl::Status status = Serve(*config, *policy); !status.ok()) {
    std::fprintf(stderr, "spotd: %s\n", std::string(status.message()).c_str());
    return kRuntimeError;
  }
  return 0;
}

}  // namespace
}  // namespace spotd::server

int main(int argc, char** argv) {
  // Debian's Abseil aborts on a potential lock-order inversion, also in release builds, and pays
  // for the bookkeeping.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return spotd::server::Main({argv + 1, static_cast<size_t>(argc > 0 ? argc - 1 : 0)});
}
