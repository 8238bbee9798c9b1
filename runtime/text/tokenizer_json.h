// Reads tokenizer.json and tokenizer_config.json, the tokenizer files of a Hugging Face checkpoint.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

// `tokenizer_config_json` may be empty: then there is no chat template, and bos and eos stay
// unknown unless the post-processor names bos. The text is untrusted: malformed JSON, values of a
// wrong type and absurd sizes are INVALID_ARGUMENT; a tokenizer that is not byte-level BPE, or uses
// a step this program does not have, is UNIMPLEMENTED and the message names the step.
absl::StatusOr<TokenizerData> ParseTokenizerJson(std::string_view tokenizer_json,
                                                 std::string_view tokenizer_config_json);

}  // namespace spotd::text
