// Byte-level BPE, as the Hugging Face `tokenizers` library computes it: same ids for the same text.
//
// Thread-safety: const methods may be called from any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

struct EncodeOptions {
  bool add_special = false;  // bos where the model wants one
  // Control tokens written out in the text become their ids. Otherwise they are plain text, as with
  // the library's `encode_special_tokens`: a control token's characters go through BPE, and no
  // other added token is looked for inside them. Added tokens that are not control tokens
  // (AddedToken::special is false) are matched either way.
  bool parse_special = false;
};

class Tokenizer {
 public:
  // INVALID_ARGUMENT when the data is inconsistent (a merge of unknown tokens, a pattern that does
  // not compile, ...).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);
  virtual ~Tokenizer() = default;

  // INVALID_ARGUMENT with the byte offset when `text` is not valid UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;
  // The bytes of the tokens; not necessarily valid UTF-8 (half a character at the end). Ids out of
  // range are an error. Control tokens are left out unless `keep_special`.
  virtual absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                             bool keep_special = false) const = 0;
  // The bytes of one token; empty for a control token and for ids outside the vocabulary.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  virtual std::string TokenText(
      int32_t id) const = 0;  // as written in a template, e.g. "<|im_end|>"
};

// Turns a stream of tokens into text that is always valid UTF-8: bytes of an unfinished character
// are held back until the rest arrives; bytes that can never become a character are replaced by
// U+FFFD, as the library does.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  // Text completed by this token; may be empty.
  std::string Push(int32_t token);
  // What is still held back, with unfinished characters replaced.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace spotd::text
