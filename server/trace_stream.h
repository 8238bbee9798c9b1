// Trace's stream: what was recorded of a reply, one step a message.
#pragma once

#include <memory>

#include "runtime/engine/selection_record.h"
#include "server/response_stream.h"

namespace spotd::server {

class TraceStream final : public ResponseStream<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  // Starts the call; gRPC owns it from here on. `request` is read before this returns.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const ServiceContext& context,
                                                           grpc::CallbackServerContext* call,
                                                           const grpc::ByteBuffer& request);

 private:
  TraceStream(const ServiceContext& context, grpc::CallbackServerContext* call);

  absl::Status Find(const grpc::ByteBuffer& request);
  bool TakeMessage(grpc::ByteBuffer* out) override;

  // Guarded by mutex_.
  std::shared_ptr<const engine::SelectionRecord> record_;
  bool header_sent_ = false;
  size_t next_step_ = 0;
};

}  // namespace spotd::server
