// How much a reply can hold that is one message. gRPC refuses a message that is too large only when
// it is complete, and with it all that was computed: what may not fit is refused before.
//
// Immutable after construction: any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"

namespace spotd::server {

// Of any message, request or reply.
inline constexpr size_t kMaxMessageBytes = size_t{16} << 20;

// OUT_OF_RANGE (REPLY_TOO_LONG) where a reply has more than kMaxMessageBytes.
absl::Status CheckReplyBytes(size_t bytes);

// Of Complete.
class CompleteLimit {
 public:
  // Looks at every token once; `engine` must outlive this.
  explicit CompleteLimit(const engine::Engine& engine);

  // Tokens of each candidate that fit, whichever they are.
  int32_t Tokens(int32_t candidates, int32_t top_logprobs) const;
  // Bounds max_tokens by what fits where the client left it open. OUT_OF_RANGE (REPLY_TOO_LONG)
  // where the client asks for more, and the context has room for it. Ranges are not checked here.
  absl::Status Fit(engine::GenerateRequest* request) const;

 private:
  const engine::Engine& engine_;
  size_t token_text_bytes_ = 0;  // of the token with the longest text
  size_t token_id_bytes_ = 0;    // of the largest id, as a varint
};

}  // namespace spotd::server
