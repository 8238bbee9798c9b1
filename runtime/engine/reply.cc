#include "runtime/engine/reply.h"

#include <algorithm>
#include <utility>

#include "runtime/engine/special_text.h"

namespace spotd::engine {

Reply::Reply(const text::Tokenizer* tokenizer, const Sampling& sampling,
             std::vector<int32_t> stop_tokens, int32_t room)
    : tokenizer_(tokenizer),
      stop_tokens_(std::move(stop_tokens)),
      max_tokens_(sampling.max_tokens > 0 ? std::min(sampling.max_tokens, room) : room),
      at_max_(sampling.max_tokens > 0 && sampling.max_tokens <= room ? FinishReason::kMaxTokens
                                                                     : FinishReason::kContextFull),
      decoder_(tokenizer),
      stops_(sampling.stop_strings) {}

TokenEvent Reply::Push(int32_t token, float logprob) {
  ++num_tokens_;
  ends_with_control_token_ = tokenizer_->IsSpecial(token);
  text_ += WrittenOut(*tokenizer_, {&token, 1});
  finish_ = Limit(token);
  std::string piece;
  if (finish_ != FinishReason::kStopToken) piece = decoder_.Push(token);
  content_ += piece;
  if (finish_ != FinishReason::kNone) piece += decoder_.Finish();

  TokenEvent event;
  event.token = token;
  event.logprob = logprob;
  event.text = stops_.Push(piece);
  if (stops_.stopped()) {
    finish_ = FinishReason::kStopString;
  } else if (finish_ != FinishReason::kNone) {
    event.text += stops_.Flush();
  }
  return event;
}

FinishReason Reply::Limit(int32_t token) const {
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end()) {
    return FinishReason::kStopToken;
  }
  return num_tokens_ >= max_tokens_ ? at_max_ : FinishReason::kNone;
}

}  // namespace spotd::engine
