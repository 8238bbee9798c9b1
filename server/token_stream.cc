#include "server/token_stream.h"

#include <utility>

#include "kernels/core/status.h"
#include "runtime/engine/out_of_memory.h"
#include "server/generate_request.h"
#include "server/replies.h"
#include "server/requests.h"
#include "server/status_map.h"

namespace spotd::server {
namespace {

// Tokens that may wait for a slow reader before the engine pauses the sequence. With gRPC's own
// buffer of one window (64 KiB) this is all that a client that does not read can make the server
// hold.
constexpr int kMaxPendingTokens = 64;
// Of one message: with the most log-probabilities that can be asked for, far less than gRPC allows.
constexpr int kMaxDeltaTokens = 1024;

}  // namespace

TokenStream::TokenStream(const ServiceContext& context, grpc::CallbackServerContext* call)
    : ResponseStream(context, "Generate", call) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* TokenStream::Start(const ServiceContext& context,
                                                               grpc::CallbackServerContext* call,
                                                               const grpc::ByteBuffer& request) {
  const std::shared_ptr<TokenStream> stream(new TokenStream(context, call));
  stream->KeepAlive();
  const bool queued = context.workers->Submit([stream, request] {
    absl::Status status = engine::GuardMemory([&] { return stream->Submit(request); });
    if (!status.ok()) {
      stream->OnDone(std::move(status));
    }
  });
  if (!queued) stream->OnDone(ServerBusy());
  return stream.get();
}

absl::Status TokenStream::Submit(const grpc::ByteBuffer& bytes) {
  SPOTD_RETURN_IF_ERROR(call_.identity().status());
  v1::GenerateRequest message;
  SPOTD_RETURN_IF_ERROR(ParseMessage(bytes, &message));
  if (!message.session().empty()) {
    SPOTD_RETURN_IF_ERROR(SessionId(message.session(), "session").status());
  }
  call_.set_session(message.session());
  call_.Announce(context_.calls, cancel_);
  SPOTD_ASSIGN_OR_RETURN(engine::GenerateRequest request,
                         ToGenerateRequest(message, call_.tenant(), context_));
  keeps_session_ = !request.session_id.empty();
  request.cancel = cancel_;
  request.deadline = call_.deadline();
  request.sink = std::static_pointer_cast<TokenStream>(shared_from_this());
  context_.engine->Generate(std::move(request));
  return absl::OkStatus();
}

void TokenStream::OnPrefill(int32_t done, int32_t total) {
  {
    std::lock_guard lock(mutex_);
    prefill_.emplace();
    prefill_->set_done_tokens(done);
    prefill_->set_total_tokens(total);
  }
  Poke();
}

void TokenStream::OnToken(const engine::TokenEvent& event) {
  {
    std::lock_guard lock(mutex_);
    v1::TokenDelta& delta = deltas_[event.candidate];
    AddToken(event, &delta);
    delta.set_candidate(event.candidate);
    ++pending_tokens_;
    if (delta.token_ids_size() == kMaxDeltaTokens) {
      full_.push_back(std::move(delta));
      deltas_.erase(event.candidate);
    }
  }
  Poke();
}

bool TokenStream::Ready() {
  std::lock_guard lock(mutex_);
  return pending_tokens_ < kMaxPendingTokens;
}

void TokenStream::OnDone(absl::StatusOr<engine::GenerateResult> result) {
  if (result.ok()) {
    std::lock_guard lock(mutex_);
    result_ = *result;
  }
  End([this, result = std::move(result)] {
    return call_.Finish(result.status(), result.ok() ? &*result : nullptr);
  });
}

bool TokenStream::TakeMessage(grpc::ByteBuffer* out) {
  v1::GenerateResponse message;
  if (prefill_.has_value()) {
    *message.mutable_prefill() = *std::exchange(prefill_, std::nullopt);
  } else if (!full_.empty()) {
    message.mutable_delta()->Swap(&full_.front());
    full_.pop_front();
    pending_tokens_ -= message.delta().token_ids_size();
  } else if (!deltas_.empty()) {
    const auto first = deltas_.begin();
    message.mutable_delta()->Swap(&first->second);
    deltas_.erase(first);
    pending_tokens_ -= message.delta().token_ids_size();
  } else if (result_.has_value()) {
    *message.mutable_result() = ToProto(*result_, context_.block_tokens, keeps_session_);
    result_.reset();
  } else {
    return false;
  }
  *out = SerializeMessage(message);
  return true;
}

}  // namespace spotd::server
