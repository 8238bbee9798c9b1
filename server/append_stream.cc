#include "server/append_stream.h"

#include <memory>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "server/generate_request.h"
#include "server/replies.h"
#include "server/status_map.h"

namespace spotd::server {

namespace {

absl::Status UploadLimit(int32_t limit) {
  return engine::MakeError(absl::StatusCode::kResourceExhausted,
                           Concat(limit, " calls are sending their input, as many as may"),
                           {.reason = engine::reason::kUploadLimit,
                            .metadata = {{"limit", std::to_string(limit)}},
                            .retry_after = std::chrono::seconds(1)});
}

}  // namespace

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
  if (!context.calls->EnterUpload()) {
    stream->OnResult(UploadLimit(context.calls->max_uploads()));
    return stream.get();
  }
  stream->uploading_ = true;
  stream->StartRead(&stream->incoming_);
  return stream.get();
}

void AppendStream::OnReadDone(bool ok) {
  if (ok) {
    if (absl::Status status = AddPiece(); !status.ok()) {
      OnResult(std::move(status));
    } else {
      StartRead(&incoming_);
    }
    return;
  }
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
  if (!context_.workers->Submit([self] { self->Submit(); })) OnResult(ServerBusy());
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
  call_.Announce(context_.calls, cancel_);
  head.tenant = call_.tenant();
  head.etag = message.etag();
  head.request_id = message.request_id();
  head.priority = message.priority();
  head_ = std::move(head);
  return absl::OkStatus();
}

void AppendStream::LeaveUpload() {
  if (uploading_.exchange(false)) context_.calls->LeaveUpload();
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
