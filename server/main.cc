// spotd: parse, build bottom-up, serve, drain.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <span>

#include "absl/synchronization/mutex.h"
#include "kernels/core/status.h"
#include "runtime/engine/engine.h"
#include "server/call_executor.h"
#include "server/config.h"
#include "server/engine_limits.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/lifecycle.h"
#include "server/log.h"
#include "server/metrics_exporter.h"
#include "server/model_loader.h"
#include "server/rpc_metrics.h"
#include "server/security.h"
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

// Ends the process once the server has drained; returns only where it cannot start.
absl::Status Serve(const ServerConfig& config, const model::Policy& policy) {
  SPOTD_ASSIGN_OR_RETURN(const Security security, LoadSecurity(config));
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine, LoadEngine(config, policy));
  RpcMetrics rpc_metrics;
  RunningCalls calls(
      {.all = config.limits.max_uploads, .tenant_percent = config.tenant_upload_percent()});
  CallExecutor workers(kWorkerThreads, kMaxQueuedCalls);
  CallExecutor writers(1, SIZE_MAX);
  const ServiceContext context{.engine = engine.get(),
                               .workers = &workers,
                               .writers = &writers,
                               .metrics = &rpc_metrics,
                               .identity = security.authenticator.get(),
                               .calls = &calls,
                               .max_prompt_bytes = config.max_prompt.bytes,
                               .block_tokens = config.block_tokens};
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> grpc_server,
                         GrpcServer::Start({.listen = config.listen,
                                            .reflection = config.ServesReflection(),
                                            .max_connection_age = config.max_connection_age,
                                            .keepalive_time = config.keepalive_time,
                                            .keepalive_timeout = config.keepalive_timeout,
                                            .min_ping_interval = config.min_ping_interval,
                                            .credentials = security.credentials},
                                           context));
  const MetricsExporter exporter(engine.get(), &rpc_metrics);
  Lifecycle lifecycle({.drain_timeout = config.drain_timeout,
                       .stall_timeout = config.stall_timeout,
                       .upload_timeout = config.limits.upload_timeout},
                      engine.get(), &rpc_metrics, &calls, grpc_server.get());
  SPOTD_ASSIGN_OR_RETURN(const std::unique_ptr<HttpServer> http,
                         StartHttp(config, exporter, lifecycle));
  Log(LogLevel::kInfo, "serving",
      {{"grpc", Concat(HostOf(config.listen), ":", grpc_server->port())},
       {"http", http == nullptr ? "off" : Concat(HostOf(config.http_listen), ":", http->port())},
       {"model", engine->model_id()},
       {"context", Concat(engine->max_context())},
       {"policy", std::string(model::PolicyName(policy.kind))},
       {"tls", !config.uses_tls()             ? "off"
               : config.tls_client_ca.empty() ? "server"
                                              : "mutual"},
       {"auth", security.authenticator == nullptr ? "off"
                : config.auth_tokens.empty()      ? "certificate"
                                                  : "token"},
       {"version", kVersion}});
  lifecycle.Run();
  // The kernel closes the connections, and a call that arrives meanwhile gets UNAVAILABLE. gRPC's
  // own shutdown ends such a call with CANCELLED, which a client takes for its own doing.
  std::_Exit(0);
}

int Fail(int code, const absl::Status& status) {
  std::fprintf(stderr, "spotd: %s\n", std::string(status.message()).c_str());
  return code;
}

// Options that print something and end. Nothing when the server is to run.
std::optional<int> PrintWhatWasAsked(const ServerConfig& config) {
  if (config.help) {
    std::fputs(HelpText().c_str(), stdout);
  } else if (config.version) {
    std::printf("spotd %s\n", kVersion);
  } else if (config.print_config_reference) {
    std::fputs(ReferenceText().c_str(), stdout);
  } else {
    return std::nullopt;
  }
  return 0;
}

int CheckConfig(const ServerConfig& config) {
  if (const absl::Status status = CheckFiles(config); !status.ok()) {
    return Fail(kUsageError, status);
  }
  engine::EngineOptions unused;
  if (const absl::Status status = ApplyServiceLimits(config.limits, &unused); !status.ok()) {
    return Fail(kUsageError, status);
  }
  for (const std::string& warning : config.warnings) {
    std::fprintf(stderr, "spotd: warning: %s\n", warning.c_str());
  }
  std::printf("%s# the configuration is good\n", config.effective.c_str());
  return 0;
}

int Main(std::span<const char* const> args) {
  const absl::StatusOr<ServerConfig> config = ParseConfig(args, &std::getenv);
  if (!config.ok()) return Fail(kUsageError, config.status());
  if (const std::optional<int> code = PrintWhatWasAsked(*config); code.has_value()) return *code;
  if (const absl::Status status = CheckEnvironment(environ); !status.ok()) {
    return Fail(kUsageError, status);
  }
  const absl::StatusOr<model::Policy> policy = config->DefaultPolicy(!config->selector.empty());
  if (!policy.ok()) return Fail(kUsageError, policy.status());
  if (config->check_config) return CheckConfig(*config);

  ConfigureLog(ParseLogFormat(config->log_format), ParseLogLevel(config->log_level));
  for (const std::string& warning : config->warnings) Log(LogLevel::kWarning, warning);
  BlockShutdownSignals();
  if (const absl::Status status = Serve(*config, *policy); !status.ok()) {
    return Fail(kRuntimeError, status);
  }
  return 0;
}

}  // namespace
}  // namespace spotd::server

int main(int argc, char** argv) {
  // Debian's Abseil aborts on a potential lock-order inversion, also in release builds, and pays
  // for the bookkeeping.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  try {
    return spotd::server::Main({argv + 1, static_cast<size_t>(argc > 0 ? argc - 1 : 0)});
  } catch (const std::bad_alloc&) {  // a file, or what was made of it, does not fit
    std::fputs("spotd: out of memory\n", stderr);
    return spotd::server::kRuntimeError;
  }
}
