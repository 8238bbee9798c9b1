// What the name in a GGUF file's `tokenizer.ggml.pre` stands for. GGUF carries vocabulary and
// merges but only the name of the step before BPE; the definitions are those of the checkpoints'
// own tokenizer.json files.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

struct NamedPreTokenizer {
  TokenizerData::PreTokenizer pre_tokenizer;
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // when the file has no tokenizer.ggml.add_bos_token
};

// `name` as in the file; "default" or empty for files that have none. UNIMPLEMENTED names an
// unknown one.
absl::StatusOr<NamedPreTokenizer> PreTokenizerByName(std::string_view name);

}  // namespace spotd::text
