// The steps around BPE in a tokenizer.json: normalizer, pre-tokenizer, decoder and post-processor,
// each a tree of typed objects. Steps that this program does not have are UNIMPLEMENTED by name;
// wrong types are INVALID_ARGUMENT.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

// Members of an untrusted value; nullptr when `object` is no object, or lacks the key, or has null
// there.
const nlohmann::json* Member(const nlohmann::json& object, const char* key);
absl::StatusOr<std::string> StringMember(const nlohmann::json& object, const char* key);
absl::StatusOr<int64_t> IntMember(const nlohmann::json& object, const char* key);
absl::StatusOr<bool> BoolMember(const nlohmann::json& object, const char* key, bool absent);

// Refuses everything but plain BPE: `model` is the member of that name.
absl::Status CheckModelKind(const nlohmann::json& model);

// The functions below take the whole document.

// True when the text is brought to form NFC, false when it is left alone.
absl::StatusOr<bool> ReadNormalizer(const nlohmann::json& root);
absl::StatusOr<TokenizerData::PreTokenizer> ReadPreTokenizer(const nlohmann::json& root);
absl::Status CheckDecoder(const nlohmann::json& root);
// The text of the token put in front of every sequence; empty when there is none.
absl::StatusOr<std::string> ReadPostProcessor(const nlohmann::json& root);

}  // namespace spotd::text
