#include <memory>
#include <string>

#include "kernels/core/status.h"
#include "server/append_stream.h"
#include "server/complete_call.h"
#include "server/reply_limit.h"
#include "server/requests.h"
#include "server/service_context.h"
#include "server/status_map.h"
#include "server/token_stream.h"
#include "server/trace_stream.h"
#include "server/unary_call.h"
#include "spotd/v1/inference.grpc.pb.h"

namespace spotd::server {
namespace {

using S = v1::InferenceService;
using RawService = S::WithRawCallbackMethod_Append<
    S::WithRawCallbackMethod_Generate<S::WithRawCallbackMethod_Complete<
        S::WithRawCallbackMethod_Abort<S::WithRawCallbackMethod_Trace<S::Service>>>>>;

class InferenceServiceImpl final : public RawService {
 public:
  explicit InferenceServiceImpl(const ServiceContext& context)
      : context_(context), complete_limit_(*context.engine) {}

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
    return CompleteCall::Start(context_, complete_limit_, call, *request, response);
  }

  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* call,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override {
    return RunUnary<v1::AbortRequest, v1::AbortResponse>(
        context_, "Abort", {call, request, response},
        [this](const v1::AbortRequest& message, const std::string& tenant) {
          return AbortCalls(message, tenant);
        });
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Trace(grpc::CallbackServerContext* call,
                                                    const grpc::ByteBuffer* request) override {
    return TraceStream::Start(context_, call, *request);
  }

 private:
  absl::StatusOr<v1::AbortResponse> AbortCalls(const v1::AbortRequest& request,
                                               const std::string& tenant) const {
    v1::AbortResponse response;
    switch (request.target_case()) {
      case v1::AbortRequest::kCallId:
        response.set_aborted_calls(context_.calls->AbortCall(tenant, request.call_id()));
        return response;
      case v1::AbortRequest::kSession:
        SPOTD_RETURN_IF_ERROR(SessionId(request.session(), "session").status());
        response.set_aborted_calls(context_.calls->AbortSession(tenant, request.session()));
        return response;
      case v1::AbortRequest::TARGET_NOT_SET:
        break;
    }
    return FieldError("call_id", "or session is required");
  }

  const ServiceContext& context_;
  const CompleteLimit complete_limit_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewInferenceService(const ServiceContext& context) {
  return std::make_unique<InferenceServiceImpl>(context);
}

}  // namespace spotd::server
