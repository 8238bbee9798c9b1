#include "runtime/text/tokenizer_parts.h"

#include <cctype>
#include <vector>

#include "kernels/core/status.h"
#include "nlohmann/json.hpp"
#include "runtime/text/unicode_update.h"

namespace spotd::text {
namespace {

using nlohmann::json;

constexpr size_t kMaxSteps = 64;
constexpr int kMaxDepth = 4;

// The steps of the tree at `root[part]` in order: Sequences are opened, null is no step.
absl::Status FlattenInto(const json& step, const char* part, const char* list_key, int depth,
                         std::vector<const json*>* steps) {
  SPOTD_ASSIGN_OR_RETURN(const std::string type, StringMember(step, "type"));
  if (type != "Sequence") {
    steps->push_back(&step);
    return absl::OkStatus();
  }
  const json* list = Member(step, list_key);
  if (list == nullptr || !list->is_array())
    return InvalidArgument(part, ": \"", list_key, "\" is not a list");
  if (depth == kMaxDepth || list->size() > kMaxSteps)
    return InvalidArgument(part, ": too many steps");
  for (const json& item : *list) {
    SPOTD_RETURN_IF_ERROR(FlattenInto(item, part, list_key, depth + 1, steps));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<const json*>> Flatten(const json& root, const char* part,
                                                 const char* list_key) {
  std::vector<const json*> steps;
  const json* step = Member(root, part);
  if (step == nullptr) return steps;
  SPOTD_RETURN_IF_ERROR(FlattenInto(*step, part, list_key, 0, &steps));
  return steps;
}

// Characters that mean something to the regular expression are escaped.
std::string Quote(const std::string& literal) {
  std::string pattern;
  for (const char c : literal) {
    if (static_cast<uint8_t>(c) < 0x80 && std::isalnum(static_cast<uint8_t>(c)) == 0)
      pattern += '\\';
    pattern += c;
  }
  return pattern;
}

absl::StatusOr<std::string> ReadSplit(const json& step) {
  SPOTD_ASSIGN_OR_RETURN(const std::string behavior, StringMember(step, "behavior"));
  if (behavior != "Isolated") return Unimplemented("pre-tokenizer Split with behavior ", behavior);
  SPOTD_ASSIGN_OR_RETURN(const bool invert, BoolMember(step, "invert", false));
  if (invert) return Unimplemented("pre-tokenizer Split with invert");
  const json* pattern = Member(step, "pattern");
  if (pattern == nullptr) return InvalidArgument("pre-tokenizer Split without pattern");
  if (Member(*pattern, "Regex") != nullptr) return StringMember(*pattern, "Regex");
  SPOTD_ASSIGN_OR_RETURN(const std::string literal, StringMember(*pattern, "String"));
  return Quote(literal);
}

absl::StatusOr<std::string> ReadDigits(const json& step) {
  SPOTD_ASSIGN_OR_RETURN(const bool individual, BoolMember(step, "individual_digits", false));
  return individual ? std::string(kDigitPattern) : Concat(kDigitPattern, "+");
}

absl::Status ReadByteLevel(const json& step, TokenizerData::PreTokenizer* rules) {
  SPOTD_ASSIGN_OR_RETURN(rules->add_prefix_space, BoolMember(step, "add_prefix_space", true));
  SPOTD_ASSIGN_OR_RETURN(rules->gpt2_pattern, BoolMember(step, "use_regex", true));
  return absl::OkStatus();
}

// What a post-processor template puts before the text: `single` must be [A] or [token, A].
absl::StatusOr<std::string> ReadTemplate(const json& step) {
  const json* single = Member(step, "single");
  if (single == nullptr || !single->is_array() || single->empty() || single->size() > kMaxSteps) {
    return InvalidArgument("post-processor: \"single\" is not a list");
  }
  if (single->size() == 1 && Member((*single)[0], "Sequence") != nullptr) return std::string();
  const json* token = Member((*single)[0], "SpecialToken");
  if (single->size() != 2 || token == nullptr || Member((*single)[1], "Sequence") == nullptr) {
    return Unimplemented("post-processor: only one token before the text is supported");
  }
  return StringMember(*token, "id");
}

absl::Status RefuseAffix(const json& model, const char* key) {
  const json* value = Member(model, key);
  if (value == nullptr || (value->is_string() && value->get_ref<const std::string&>().empty())) {
    return absl::OkStatus();
  }
  return Unimplemented("BPE with ", key);
}

}  // namespace

const json* Member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<std::string> StringMember(const json& object, const char* key) {
  const json* value = Member(object, key);
  if (value == nullptr || !value->is_string())
    return InvalidArgument("\"", key, "\" is not a string");
  return value->get<std::string>();
}

absl::StatusOr<int64_t> IntMember(const json& object, const char* key) {
  const json* value = Member(object, key);
  if (value == nullptr || !value->is_number_integer()) {
    return InvalidArgument("\"", key, "\" is not a whole number");
  }
  return value->get<int64_t>();
}

absl::StatusOr<bool> BoolMember(const json& object, const char* key, bool absent) {
  const json* value = Member(object, key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) return InvalidArgument("\"", key, "\" is not true or false");
  return value->get<bool>();
}

absl::Status CheckModelKind(const json& model) {
  if (Member(model, "type") != nullptr) {
    SPOTD_ASSIGN_OR_RETURN(const std::string type, StringMember(model, "type"));
    if (type != "BPE") return Unimplemented("tokenizer model ", type, " (only BPE is supported)");
  }
  SPOTD_RETURN_IF_ERROR(RefuseAffix(model, "continuing_subword_prefix"));
  SPOTD_RETURN_IF_ERROR(RefuseAffix(model, "end_of_word_suffix"));
  SPOTD_ASSIGN_OR_RETURN(const bool byte_fallback, BoolMember(model, "byte_fallback", false));
  if (byte_fallback) return Unimplemented("BPE with byte_fallback");
  const json* dropout = Member(model, "dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0)) {
    return Unimplemented("BPE with dropout");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadNormalizer(const json& root) {
  SPOTD_ASSIGN_OR_RETURN(const auto steps, Flatten(root, "normalizer", "normalizers"));
  for (const json* step : steps) {
    SPOTD_ASSIGN_OR_RETURN(const std::string type, StringMember(*step, "type"));
    if (type != "NFC") return Unimplemented("normalizer ", type);
  }
  return !steps.empty();
}

absl::StatusOr<TokenizerData::PreTokenizer> ReadPreTokenizer(const json& root) {
  SPOTD_ASSIGN_OR_RETURN(const auto steps, Flatten(root, "pre_tokenizer", "pretokenizers"));
  TokenizerData::PreTokenizer rules;
  for (size_t i = 0; i < steps.size(); ++i) {
    SPOTD_ASSIGN_OR_RETURN(const std::string type, StringMember(*steps[i], "type"));
    const bool last = i + 1 == steps.size();
    if (last != (type == "ByteLevel")) {
      return Unimplemented("pre-tokenizer ", type, last ? " as the last step" : " before others",
                           " (byte-level BPE is wanted)");
    }
    if (type == "ByteLevel") {
      SPOTD_RETURN_IF_ERROR(ReadByteLevel(*steps[i], &rules));
    } else if (type == "Split" || type == "Digits") {
      SPOTD_ASSIGN_OR_RETURN(std::string pattern,
                             type == "Split" ? ReadSplit(*steps[i]) : ReadDigits(*steps[i]));
      rules.patterns.push_back(std::move(pattern));
    } else {
      return Unimplemented("pre-tokenizer ", type);
    }
  }
  if (steps.empty()) return Unimplemented("a tokenizer without pre-tokenizer (not byte-level)");
  return rules;
}

absl::Status CheckDecoder(const json& root) {
  SPOTD_ASSIGN_OR_RETURN(const auto steps, Flatten(root, "decoder", "decoders"));
  for (const json* step : steps) {
    SPOTD_ASSIGN_OR_RETURN(const std::string type, StringMember(*step, "type"));
    if (type != "ByteLevel") return Unimplemented("decoder ", type);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadPostProcessor(const json& root) {
  SPOTD_ASSIGN_OR_RETURN(const auto steps, Flatten(root, "post_processor", "processors"));
  std::string prefix;
  for (const json* step : steps) {
    SPOTD_ASSIGN_OR_RETURN(const std::string type, StringMember(*step, "type"));
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing") return Unimplemented("post-processor ", type);
    SPOTD_ASSIGN_OR_RETURN(prefix, ReadTemplate(*step));
  }
  return prefix;
}

}  // namespace spotd::text
