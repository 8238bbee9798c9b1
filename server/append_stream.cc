#include "server/append_stream.h"

#include <memory>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/out_of_memory.h"
#include "runtime/engine/request_check.h"
#include "server/generate_request.h"
#include "server/replies.h"
#include "server/status_map.h"

namespace spotd::server {

using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

AppendStream::AppendStream(const ServiceContext& context, grpc::CallbackServerContext* call)
    : ResponseStream(context, "Append", call), input_(context.max_prompt_bytes) {}

Reactor* AppendStream::Start(const ServiceContext& context, grpc::CallbackServerContext* call) {
  const std::shared_ptr<AppendStream> stream(new AppendStream(context, call));
  stream->KeepAlive();
  if (const auto& identity = stream->call_.identity(); !identity.ok()) {
    stream->OnResult(identity.status());
    return stream.get();
  }
  if (absl::Status status = context.calls->EnterUpload(stream->call_.tenant()); !status.ok()) {
    stream->OnResult(std::move(status));
    return stream.get();
  }
  stream->uploading_ = true;
  {
    const std::lock_guard lock(stream->upload_mutex_);
    stream->AnnounceUpload();
    stream->StartRead(&stream->incoming_);
  }
  // One that the end of the others may have missed.
  if (context.calls->drains_uploads()) {
    stream->cancel_->Drain();
    stream->EndUpload();
  }
  return stream.get();
}

void AppendStream::AnnounceUpload() {
  const std::weak_ptr<ResponseStream> weak = weak_from_this();
  call_.Announce(context_.calls, cancel_, [weak] {
    if (const auto self = weak.lock()) static_cast<AppendStream&>(*self).EndUpload();
  });
}

void AppendStream::EndUpload() {
  {
    const std::lock_guard lock(upload_mutex_);
    if (std::exchange(upload_over_, true)) return;
  }
  OnResult(engine::StatusOf(cancel_->cause()));
}

void AppendStream::OnReadDone(bool ok) {
  absl::Status status;
  {
    // Held while a read is started, so that none is after the call's end.
    const std::lock_guard lock(upload_mutex_);
    if (upload_over_) return;
    call_.Heard();
    if (ok) status = engine::GuardMemory([this] { return AddPiece(); });
    if (ok && status.ok()) return StartRead(&incoming_);
    upload_over_ = true;
  }
  if (!status.ok()) return OnResult(std::move(status));
  // The client half-closed, or the stream broke, or gRPC refused an oversized message: reading ends
  // the same way for all three, and what has arrived must not be taken for the whole. Sending
  // something tells them apart.
  StartSendInitialMetadata();
}

void AppendStream::OnSendInitialMetadataDone(bool ok) {
  if (!ok) {
    OnResult(absl::CancelledError("the stream broke before the end of the input"));
    return;
  }
  auto self = std::static_pointer_cast<AppendStream>(shared_from_this());
  const bool queued = context_.workers->Submit([self] {
    const absl::Status status = engine::GuardMemory([&] {
      self->Submit();
      return absl::OkStatus();
    });
    if (!status.ok()) self->OnResult(status);
  });
  if (!queued) OnResult(ServerBusy());
}

absl::Status AppendStream::AddPiece() {
  v1::AppendRequest message;
  SPOTD_RETURN_IF_ERROR(ParseMessage(incoming_, &message));
  if (!head_.has_value()) {
    SPOTD_RETURN_IF_ERROR(TakeHead(message));
  } else {
    const bool head_again = !message.session().empty() || !message.request_id().empty() ||
                            !message.etag().empty() || message.has_priority();
    if (head_again)
      return FieldError("session", "and what goes with it belong in the first message only");
  }
  for (const v1::Input& piece : message.input()) {
    SPOTD_RETURN_IF_ERROR(input_.Add(piece, "input"));
  }
  return absl::OkStatus();
}

absl::Status AppendStream::TakeHead(const v1::AppendRequest& message) {
  engine::RequestHead head;
  SPOTD_ASSIGN_OR_RETURN(head.session_id, SessionId(message.session(), "session"));
  call_.set_session(message.session());
  AnnounceUpload();
  head.tenant = call_.tenant();
  head.etag = message.etag();
  head.request_id = message.request_id();
  head.priority = message.priority();
  head_ = std::move(head);
  return absl::OkStatus();
}

void AppendStream::LeaveUpload() {
  if (uploading_.exchange(false)) context_.calls->LeaveUpload(call_.tenant());
}

void AppendStream::Submit() {
  LeaveUpload();
  if (!head_.has_value()) {
    OnResult(FieldError("session", "is required: the stream ended without a message"));
    return;
  }
  auto self = std::static_pointer_cast<AppendStream>(shared_from_this());
  engine::AppendRequest request;
  static_cast<engine::RequestHead&>(request) = *std::move(head_);
  request.input = input_.Take();
  if (!request.request_id.empty()) request.fingerprint = Fingerprint(request.input);
  request.cancel = cancel_;
  request.deadline = call_.deadline();
  call_.Announce(context_.calls, cancel_);
  request.on_progress = [self](int32_t done, int32_t total) { self->OnProgress(done, total); };
  request.on_done = [self](absl::StatusOr<engine::AppendResult> result) {
    self->OnResult(std::move(result));
  };
  context_.engine->Append(std::move(request));
}

void AppendStream::OnProgress(int32_t done, int32_t total) {
  {
    std::lock_guard lock(mutex_);
    progress_.emplace();
    progress_->set_done_tokens(done);
    progress_->set_total_tokens(total);
  }
  Poke();
}

void AppendStream::OnResult(absl::StatusOr<engine::AppendResult> result) {
  LeaveUpload();
  if (result.ok()) {
    std::lock_guard lock(mutex_);
    result_ = ToProto(*result);
  }
  End([this, status = result.status()] { return call_.Finish(status); });
}

bool AppendStream::TakeMessage(grpc::ByteBuffer* out) {
  v1::AppendResponse message;
  if (progress_.has_value()) {
    *message.mutable_prefill() = *std::exchange(progress_, std::nullopt);
  } else if (result_.has_value()) {
    *message.mutable_result() = *std::exchange(result_, std::nullopt);
  } else {
    return false;
  }
  *out = SerializeMessage(message);
  return true;
}

}  // namespace spotd::server
