#include <memory>

#include "server/append_stream.h"
#include "server/complete_call.h"
#include "server/service_context.h"
#include "server/token_stream.h"
#include "spotd/v1/inference.grpc.pb.h"

namespace spotd::server {
namespace {

using RawService = v1::InferenceService::WithRawCallbackMethod_Append<
    v1::InferenceService::WithRawCallbackMethod_Generate<
        v1::InferenceService::WithRawCallbackMethod_Complete<v1::InferenceService::Service>>>;

class InferenceServiceImpl final : public RawService {
 public:
  explicit InferenceServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Append(
      grpc::CallbackServerContext* call) override {
    return AppendStream::Start(context_, call);
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* call,
                                                       const grpc::ByteBuffer* request) override {
    return TokenStream::Start(context_, call, *request);
  }

  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return CompleteCall::Start(context_, call, *request, response);
  }

 private:
  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewInferenceService(const ServiceContext& context) {
  return std::make_unique<InferenceServiceImpl>(context);
}

}  // namespace spotd::server
