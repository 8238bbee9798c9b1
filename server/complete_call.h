// Complete: collects what the engine generates and answers once.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/statusor.h"
#include "runtime/engine/request.h"
#include "server/call.h"
#include "server/reply_limit.h"
#include "server/service_context.h"
#include "spotd/v1/inference.pb.h"

namespace spotd::server {

class CompleteCall final : public grpc::ServerUnaryReactor,
                           public engine::TokenSink,
                           public std::enable_shared_from_this<CompleteCall> {
 public:
  // Starts the call; gRPC and the engine own it from here on. `response` is filled before the call
  // finishes. `limit` must outlive the call.
  static grpc::ServerUnaryReactor* Start(const ServiceContext& context, const CompleteLimit& limit,
                                         grpc::CallbackServerContext* call,
                                         const grpc::ByteBuffer& request,
                                         grpc::ByteBuffer* response);

  // gRPC.
  void OnCancel() override { cancel_->Cancel(); }
  void OnDone() override { self_.reset(); }

  // TokenSink, on the engine thread.
  void OnPrefill(int32_t /*done*/, int32_t /*total*/) override {}
  void OnToken(const engine::TokenEvent& event) override;
  bool Ready() override { return true; }
  void OnDone(absl::StatusOr<engine::GenerateResult> result) override;

 private:
  CompleteCall(const ServiceContext& context, grpc::CallbackServerContext* call,
               grpc::ByteBuffer* response);

  absl::Status Submit(const CompleteLimit& limit, const grpc::ByteBuffer& bytes);

  const ServiceContext& context_;
  Call call_;
  grpc::ByteBuffer* response_;
  const std::shared_ptr<engine::CancelToken> cancel_ = std::make_shared<engine::CancelToken>();
  v1::CompleteResponse message_;  // the worker's, then the engine thread's, then the writer's
  std::shared_ptr<CompleteCall> self_;
};

}  // namespace spotd::server
