// One RPC from arrival to status: its request id, its deadline, its line in the log and its place
// in the metrics.
//
// Includes gRPC: only for the .cc files of services and streams.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "runtime/engine/request.h"
#include "server/service_context.h"
#include "server/trace_context.h"

namespace spotd::server {

class Call {
 public:
  // Takes the request id from the metadata "x-request-id", or makes one, and echoes it in the
  // initial metadata, and asks who is calling. `method` must be a literal. `context` must outlive
  // the call.
  Call(const ServiceContext& services, std::string_view method,
       grpc::CallbackServerContext* context);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Who is calling. When it is an error the call must end with it and do nothing.
  const absl::StatusOr<Identity>& identity() const { return identity_; }

  // The tenant's name, once identity() is known to be no error.
  const std::string& tenant() const { return identity_->tenant; }

  // The session it is about, for the log: a name that has been checked.
  void set_session(std::string session) { session_ = std::move(session); }
  // Makes the call known until Finish, so that another can end it through `cancel`, under the
  // session set so far. Only where identity() is no error.
  void Announce(RunningCalls* calls, std::shared_ptr<engine::CancelToken> cancel,
                std::function<void()> on_end = nullptr);
  // The client has sent something more: the call has not stalled.
  void Heard() { announced_.Heard(); }
  // Logs and counts the outcome, and makes the call unknown. Once per call; what has the call may
  // be freed long after gRPC and the client are done with it.
  grpc::Status Finish(const absl::Status& status, const engine::GenerateResult* result = nullptr);

  // The client's deadline on the engine's clock.
  std::optional<engine::Clock::time_point> deadline() const;

 private:
  RpcMetrics* metrics_;
  std::string_view method_;
  grpc::CallbackServerContext* context_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string request_id_;
  std::optional<TraceContext> trace_;  // of the metadata "traceparent"
  absl::StatusOr<Identity> identity_;
  std::string session_;
  RunningCalls::Handle announced_;
  const bool counted_;  // among the calls that a drain waits for
};

// Parses a request. INVALID_ARGUMENT (MALFORMED_REQUEST, or INVALID_UTF8 naming the field) instead
// of gRPC's own answer, which is UNIMPLEMENTED for calls and "end of stream" for streams. That is
// why the services take raw bytes.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

// "stop_token", ...; the label of metrics and logs.
std::string_view FinishReasonName(engine::FinishReason reason);

}  // namespace spotd::server
