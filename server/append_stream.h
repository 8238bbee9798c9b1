// Append's stream: collects the client's pieces, hands them to the engine when the client has
// half-closed, and sends progress back.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/engine/request.h"
#include "server/requests.h"
#include "server/response_stream.h"
#include "spotd/v1/inference.pb.h"

namespace spotd::server {

class AppendStream final
    : public ResponseStream<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  // Starts the call; gRPC and the engine own it from here on.
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      const ServiceContext& context, grpc::CallbackServerContext* call);

  void OnReadDone(bool ok) override;
  void OnSendInitialMetadataDone(bool ok) override;

 private:
  AppendStream(const ServiceContext& context, grpc::CallbackServerContext* call);

  // Abort, a server that shuts down, or a client that sends nothing any more: the upload ends now,
  // not when the client half-closes.
  void EndUpload();
  // As a call that still sends its input.
  void AnnounceUpload();
  absl::Status AddPiece();
  absl::Status TakeHead(const v1::AppendRequest& message);
  void LeaveUpload();
  void Submit();
  void OnProgress(int32_t done, int32_t total);
  void OnResult(absl::StatusOr<engine::AppendResult> result);
  bool TakeMessage(grpc::ByteBuffer* out) override;

  std::mutex upload_mutex_;
  bool upload_over_ = false;  // guarded by upload_mutex_: nothing is read any more
  // Reading half: one read at a time under upload_mutex_, then the worker.
  grpc::ByteBuffer incoming_;
  std::optional<engine::RequestHead> head_;  // set by the first message
  std::atomic<bool> uploading_{false};
  InputCollector input_;
  // The mailbox; guarded by mutex_.
  std::optional<v1::PrefillProgress> progress_;
  std::optional<v1::AppendResult> result_;
};

}  // namespace spotd::server
