#include "server/complete_call.h"

#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "runtime/engine/out_of_memory.h"
#include "server/generate_request.h"
#include "server/replies.h"

namespace spotd::server {

CompleteCall::CompleteCall(const ServiceContext& context, grpc::CallbackServerContext* call,
                           grpc::ByteBuffer* response)
    : context_(context), call_(context, "Complete", call), response_(response) {}

grpc::ServerUnaryReactor* CompleteCall::Start(const ServiceContext& context,
                                              const CompleteLimit& limit,
                                              grpc::CallbackServerContext* call,
                                              const grpc::ByteBuffer& request,
                                              grpc::ByteBuffer* response) {
  const std::shared_ptr<CompleteCall> complete(new CompleteCall(context, call, response));
  complete->self_ = complete;
  const bool queued = context.workers->Submit([complete, request, &limit] {
    absl::Status status = engine::GuardMemory([&] { return complete->Submit(limit, request); });
    if (!status.ok()) {
      complete->OnDone(std::move(status));
    }
  });
  if (!queued) complete->OnDone(ServerBusy());
  return complete.get();
}

absl::Status CompleteCall::Submit(const CompleteLimit& limit, const grpc::ByteBuffer& bytes) {
  SPOTD_RETURN_IF_ERROR(call_.identity().status());
  v1::CompleteRequest message;
  SPOTD_RETURN_IF_ERROR(ParseMessage(bytes, &message));
  SPOTD_ASSIGN_OR_RETURN(engine::GenerateRequest request,
                         ToGenerateRequest(message, call_.tenant(), context_));
  SPOTD_RETURN_IF_ERROR(limit.Fit(&request));
  call_.Announce(context_.calls, cancel_);
  request.cancel = cancel_;
  request.deadline = call_.deadline();
  request.sink = shared_from_this();
  context_.engine->Generate(std::move(request));
  return absl::OkStatus();
}

void CompleteCall::OnToken(const engine::TokenEvent& event) {
  while (message_.more_completions_size() < event.candidate) {
    const int32_t candidate = message_.more_completions_size() + 1;
    message_.add_more_completions()->set_candidate(candidate);
  }
  AddToken(event, event.candidate == 0 ? message_.mutable_completion()
                                       : message_.mutable_more_completions(event.candidate - 1));
}

void CompleteCall::OnDone(absl::StatusOr<engine::GenerateResult> result) {
  // Sending is the writer thread's job, not the engine's.
  const bool queued =
      context_.writers->Submit([self = shared_from_this(), result = std::move(result)] {
        if (result.ok()) {
          *self->message_.mutable_result() =
              ToProto(*result, self->context_.block_tokens, /*keeps_session=*/false);
          *self->response_ = SerializeMessage(self->message_);
        }
        self->Finish(self->call_.Finish(result.status(), result.ok() ? &*result : nullptr));
      });
  SPOTD_CHECK(queued);  // the writers' queue is not bounded: it holds a call at most once
}

}  // namespace spotd::server
