#include "server/reply_limit.h"

#include <algorithm>
#include <string_view>

#include "google/protobuf/io/coded_stream.h"
#include "kernels/core/status.h"
#include "runtime/engine/error_reasons.h"
#include "runtime/engine/errors.h"
#include "runtime/engine/request_check.h"
#include "runtime/text/utf8.h"

namespace spotd::server {
namespace {

// GenerateResult with as many top_blocks and stop texts as may be.
constexpr size_t kResultBytes = size_t{64} << 10;
// A TokenDelta's own tags and lengths, and those of the TopLogprobs of one token.
constexpr size_t kDeltaBytes = 32;
constexpr size_t kTopLogprobsBytes = 8;
constexpr size_t kLogprobBytes = sizeof(float);

// Of what a token can add to a text: a byte that is part of no character becomes U+FFFD.
size_t TextBytes(std::string_view bytes) {
  const bool whole = !text::FirstInvalidUtf8(bytes).has_value();
  return bytes.size() * (whole ? 1 : text::kReplacementCharacter.size());
}

absl::Status TooLong(std::string_view message, std::string_view field, size_t limit, size_t got) {
  return engine::MakeError(absl::StatusCode::kOutOfRange, message,
                           {.reason = engine::reason::kReplyTooLong,
                            .field = std::string(field),
                            .metadata = {{"limit", Concat(limit)}, {"got", Concat(got)}},
                            .retry_after = {}});
}

}  // namespace

absl::Status CheckReplyBytes(size_t bytes) {
  if (bytes <= kMaxMessageBytes) return absl::OkStatus();
  return TooLong(
      Concat("the reply has ", bytes, " bytes; a message has at most ", kMaxMessageBytes), "",
      kMaxMessageBytes, bytes);
}

CompleteLimit::CompleteLimit(const engine::Engine& engine) : engine_(engine) {
  const text::Tokenizer& tokenizer = engine.tokenizer();
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    token_text_bytes_ = std::max(token_text_bytes_, TextBytes(tokenizer.TokenBytes(id)));
  }
  const int32_t ids = std::max(tokenizer.vocab_size(), engine.model_config().vocab);
  token_id_bytes_ =
      google::protobuf::io::CodedOutputStream::VarintSize32(static_cast<uint32_t>(ids - 1));
}

int32_t CompleteLimit::Tokens(int32_t candidates, int32_t top_logprobs) const {
  const size_t one = token_id_bytes_ + kLogprobBytes;
  size_t token = token_text_bytes_ + one;
  if (top_logprobs > 0) token += kTopLogprobsBytes + static_cast<size_t>(top_logprobs) * one;
  const size_t candidate = (kMaxMessageBytes - kResultBytes) / static_cast<size_t>(candidates);
  return static_cast<int32_t>((candidate - kDeltaBytes) / token);
}

absl::Status CompleteLimit::Fit(engine::GenerateRequest* request) const {
  const int32_t candidates = std::clamp(request->candidates, 1, engine::kMaxCandidates);
  const int32_t top_logprobs = std::clamp(request->top_logprobs, 0, engine::kMaxTopLogprobs);
  const int32_t fit = Tokens(candidates, top_logprobs);
  int32_t& asked = request->sampling.max_tokens;
  const int32_t most = asked > 0 ? std::min(asked, engine_.max_context()) : engine_.max_context();
  if (most <= fit) return absl::OkStatus();
  if (asked == 0) {
    asked = fit;
    return absl::OkStatus();
  }
  return TooLong(Concat("sampling.max_tokens is ", asked, "; with candidate_count ", candidates,
                        " and top_logprobs ", top_logprobs, " a reply, one message, can hold ", fit,
                        "; Generate streams any number"),
                 "sampling.max_tokens", static_cast<size_t>(fit), static_cast<size_t>(asked));
}

}  // namespace spotd::server
