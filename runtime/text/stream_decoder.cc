#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"

namespace spotd::text {

std::string StreamDecoder::Push(int32_t token) {
  pending_.append(tokenizer_->TokenBytes(token));
  std::string text;
  pending_.erase(0, AppendLossyUtf8(pending_, /*final=*/false, &text));
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text;
  AppendLossyUtf8(pending_, /*final=*/true, &text);
  pending_.clear();
  return text;
}

}  // namespace spotd::text
