// What every service needs, and how the services are made without showing gRPC's headers to those
// who only wire them.
#pragma once

#include <cstddef>
#include <memory>

#include "runtime/engine/engine.h"
#include "server/call_executor.h"
#include "server/identity.h"
#include "server/rpc_metrics.h"
#include "server/running_calls.h"

namespace grpc {
class Service;
}

namespace spotd::server {

struct ServiceContext {
  engine::Engine* engine = nullptr;
  CallExecutor* workers =
      nullptr;  // tokenising, and calls that wait for the engine between two steps
  CallExecutor* writers =
      nullptr;  // one thread: serialises and sends what the engine thread left in mailboxes
  RpcMetrics* metrics = nullptr;
  const IdentityProvider* identity = nullptr;  // null: every caller is the default tenant
  RunningCalls* calls = nullptr;
  size_t max_prompt_bytes = 16u << 20;
  int32_t block_tokens = 16;  // of the KV cache
};

// The services keep a reference to the context, which must outlive them.
std::unique_ptr<grpc::Service> NewSessionService(const ServiceContext& context);
std::unique_ptr<grpc::Service> NewInferenceService(const ServiceContext& context);
std::unique_ptr<grpc::Service> NewModelService(const ServiceContext& context);

}  // namespace spotd::server
