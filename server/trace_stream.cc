#include "server/trace_stream.h"

#include <string>
#include <utility>

#include "kernels/core/status.h"
#include "server/generate_request.h"
#include "server/replies.h"
#include "server/requests.h"
#include "spotd/v1/inference.pb.h"

namespace spotd::server {

TraceStream::TraceStream(const ServiceContext& context, grpc::CallbackServerContext* call)
    : ResponseStream(context, "Trace", call) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* TraceStream::Start(const ServiceContext& context,
                                                               grpc::CallbackServerContext* call,
                                                               const grpc::ByteBuffer& request) {
  const std::shared_ptr<TraceStream> stream(new TraceStream(context, call));
  stream->KeepAlive();
  const auto end = [stream](const absl::Status& status) {
    stream->End([stream, status] { return stream->call_.Finish(status); });
  };
  if (!context.workers->Submit([stream, request, end] { end(stream->Find(request)); })) {
    end(ServerBusy());
  }
  return stream.get();
}

absl::Status TraceStream::Find(const grpc::ByteBuffer& bytes) {
  SPOTD_RETURN_IF_ERROR(call_.identity().status());
  v1::TraceRequest message;
  SPOTD_RETURN_IF_ERROR(ParseMessage(bytes, &message));
  SPOTD_ASSIGN_OR_RETURN(const std::string id, SessionId(message.session(), "session"));
  call_.set_session(message.session());
  SPOTD_ASSIGN_OR_RETURN(auto record, context_.engine->Selection({id, call_.tenant()}));
  const std::lock_guard lock(mutex_);
  record_ = std::move(record);
  return absl::OkStatus();
}

bool TraceStream::TakeMessage(grpc::ByteBuffer* out) {
  if (record_ == nullptr) return false;
  v1::TraceResponse message;
  if (!std::exchange(header_sent_, true)) {
    *message.mutable_header() = ToHeader(*record_, *context_.engine, context_.block_tokens);
  } else if (next_step_ < record_->steps().size()) {
    *message.mutable_step() = ToProto(record_->steps()[next_step_++]);
  } else {
    return false;
  }
  *out = SerializeMessage(message);
  return true;
}

}  // namespace spotd::server
