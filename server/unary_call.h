// A unary RPC that is answered by a function on a worker thread.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/core/status.h"
#include "runtime/engine/out_of_memory.h"
#include "server/call.h"
#include "server/generate_request.h"
#include "server/reply_limit.h"
#include "server/service_context.h"

namespace spotd::server {

// What gRPC hands to a raw unary method.
struct RawUnary {
  grpc::CallbackServerContext* context;
  const grpc::ByteBuffer* request;
  grpc::ByteBuffer* response;
};

// Parses, calls `handle(request, tenant)` on a worker, serialises. `method` must be a literal.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* RunUnary(
    const ServiceContext& context, std::string_view method, const RawUnary& raw,
    std::function<absl::StatusOr<Response>(const Request&, const std::string& tenant)> handle) {
  grpc::ServerUnaryReactor* reactor = raw.context->DefaultReactor();
  auto call = std::make_shared<Call>(context, method, raw.context);
  const bool queued = context.workers->Submit([=, handle = std::move(handle)] {
    const absl::Status status = engine::GuardMemory([&]() -> absl::Status {
      SPOTD_RETURN_IF_ERROR(call->identity().status());
      Request request;
      SPOTD_RETURN_IF_ERROR(ParseMessage(*raw.request, &request));
      SPOTD_ASSIGN_OR_RETURN(const Response response, handle(request, call->tenant()));
      SPOTD_RETURN_IF_ERROR(CheckReplyBytes(response.ByteSizeLong()));
      *raw.response = SerializeMessage(response);
      return absl::OkStatus();
    });
    reactor->Finish(call->Finish(status));
  });
  if (!queued) reactor->Finish(call->Finish(ServerBusy()));
  return reactor;
}

}  // namespace spotd::server
