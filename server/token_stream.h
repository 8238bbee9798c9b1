// Generate's stream: the engine's TokenSink on one side, a gRPC writer on the other.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/engine/request.h"
#include "server/response_stream.h"
#include "spotd/v1/inference.pb.h"

namespace spotd::server {

class TokenStream final : public ResponseStream<grpc::ServerWriteReactor<grpc::ByteBuffer>>,
                          public engine::TokenSink {
 public:
  // Starts the call; gRPC and the engine own it from here on. `request` is read before this
  // returns.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const ServiceContext& context,
                                                           grpc::CallbackServerContext* call,
                                                           const grpc::ByteBuffer& request);

  // TokenSink, on the engine thread.
  void OnPrefill(int32_t done, int32_t total) override;
  void OnToken(const engine::TokenEvent& event) override;
  bool Ready() override;
  void OnDone(absl::StatusOr<engine::GenerateResult> result) override;

  using ResponseStream::OnDone;  // gRPC's

 private:
  TokenStream(const ServiceContext& context, grpc::CallbackServerContext* call);

  absl::Status Submit(const grpc::ByteBuffer& request);
  bool TakeMessage(grpc::ByteBuffer* out) override;

  bool keeps_session_ = false;
  // The mailbox; guarded by mutex_. It holds at most kMaxPendingTokens + 1 tokens, but for a reply
  // that is repeated from memory: that comes at once.
  std::optional<v1::PrefillProgress> prefill_;
  std::deque<v1::TokenDelta> full_;           // deltas with as many tokens as a message should have
  std::map<int32_t, v1::TokenDelta> deltas_;  // by candidate; none without a token
  int pending_tokens_ = 0;
  std::optional<engine::GenerateResult> result_;
};

}  // namespace spotd::server
