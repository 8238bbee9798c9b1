#include "runtime/text/tokenizer_json.h"

#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "kernels/core/status.h"
#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer_parts.h"

namespace spotd::text {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTokens = int64_t{1} << 22;

// The special-token and template settings of a tokenizer_config.json.
class Config {
 public:
  static absl::StatusOr<Config> Parse(std::string_view text) {
    Config config;
    if (text.empty()) return config;
    config.object_ = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!config.object_.is_object())
      return InvalidArgument("tokenizer_config is not a JSON object");
    return config;
  }

  // A token is written as its text or as an object with the text in "content"; empty when absent or
  // null.
  absl::StatusOr<std::string> Token(const char* key) const {
    const json* value = Member(object_, key);
    if (value == nullptr) return std::string();
    if (value->is_object()) return StringMember(*value, "content");
    if (value->is_string()) return value->get<std::string>();
    return InvalidArgument("\"", key, "\" is neither a string nor an object");
  }

  absl::StatusOr<std::optional<bool>> Bool(const char* key) const {
    if (Member(object_, key) == nullptr) return std::optional<bool>();
    SPOTD_ASSIGN_OR_RETURN(const bool value, BoolMember(object_, key, false));
    return std::optional<bool>(value);
  }

  // One template, or a list of named ones of which "default" is taken; empty when there is none.
  absl::StatusOr<std::string> ChatTemplate() const {
    const json* value = Member(object_, "chat_template");
    if (value == nullptr) return std::string();
    if (value->is_string()) return value->get<std::string>();
    if (!value->is_array())
      return InvalidArgument("\"chat_template\" is neither a string nor a list");
    for (const json& item : *value) {
      SPOTD_ASSIGN_OR_RETURN(const std::string name, StringMember(item, "name"));
      if (name == "default") return StringMember(item, "template");
    }
    return std::string();
  }

 private:
  json object_ = json::object();
};

absl::StatusOr<AddedToken> ReadAddedToken(const json& item) {
  AddedToken token;
  SPOTD_ASSIGN_OR_RETURN(const int64_t id, IntMember(item, "id"));
  if (id < 0 || id >= kMaxTokens) return InvalidArgument("an added token has id ", id);
  token.id = static_cast<int32_t>(id);
  SPOTD_ASSIGN_OR_RETURN(token.content, StringMember(item, "content"));
  SPOTD_ASSIGN_OR_RETURN(token.special, BoolMember(item, "special", false));
  SPOTD_ASSIGN_OR_RETURN(token.lstrip, BoolMember(item, "lstrip", false));
  SPOTD_ASSIGN_OR_RETURN(token.rstrip, BoolMember(item, "rstrip", false));
  SPOTD_ASSIGN_OR_RETURN(token.normalized, BoolMember(item, "normalized", !token.special));
  SPOTD_ASSIGN_OR_RETURN(const bool single_word, BoolMember(item, "single_word", false));
  if (single_word) return Unimplemented("added token \"", token.content, "\" is a single_word one");
  return token;
}

absl::Status ReadAddedTokens(const json& root, TokenizerData* data) {
  const json* list = Member(root, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return InvalidArgument("\"added_tokens\" is not a list");
  for (const json& item : *list) {
    SPOTD_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(item));
    data->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadVocab(const json& model, TokenizerData* data) {
  const json* vocab = Member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return InvalidArgument("\"vocab\" is not an object");
  for (const auto& [text, value] : vocab->items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(kMaxTokens)) {
      return InvalidArgument("token \"", text, "\" has an id that is not a small whole number");
    }
    const auto id = value.get<size_t>();
    if (id >= data->vocab.size()) data->vocab.resize(id + 1);
    if (!data->vocab[id].empty()) {
      return InvalidArgument("tokens \"", data->vocab[id], "\" and \"", text, "\" both have id ",
                             id);
    }
    data->vocab[id] = text;
  }
  return absl::OkStatus();
}

// A merge is written "left right" or ["left", "right"].
std::optional<std::pair<std::string, std::string>> ReadMerge(const json& item) {
  if (item.is_string()) {
    const auto& text = item.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return {};
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_string()) {
    return {};
  }
  return std::pair(item[0].get<std::string>(), item[1].get<std::string>());
}

absl::Status ReadMerges(const json& model, TokenizerData* data) {
  const json* merges = Member(model, "merges");
  if (merges == nullptr || !merges->is_array()) return InvalidArgument("\"merges\" is not a list");
  if (merges->size() > static_cast<size_t>(kMaxTokens)) return InvalidArgument("too many merges");
  data->merges.reserve(merges->size());
  for (const json& item : *merges) {
    auto merge = ReadMerge(item);
    if (!merge) return InvalidArgument("merge ", data->merges.size(), " is not a pair of tokens");
    data->merges.push_back(*std::move(merge));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& root, TokenizerData* data) {
  const json* model = Member(root, "model");
  if (model == nullptr || !model->is_object()) return InvalidArgument("\"model\" is not an object");
  SPOTD_RETURN_IF_ERROR(CheckModelKind(*model));
  SPOTD_RETURN_IF_ERROR(ReadVocab(*model, data));
  SPOTD_RETURN_IF_ERROR(ReadMerges(*model, data));
  SPOTD_ASSIGN_OR_RETURN(data->ignore_merges, BoolMember(*model, "ignore_merges", false));
  SPOTD_ASSIGN_OR_RETURN(data->fuse_unknown, BoolMember(*model, "fuse_unk", false));
  return absl::OkStatus();
}

// Token text -> id, for the names that settings use.
class TokenIndex {
 public:
  explicit TokenIndex(const TokenizerData& data) {
    for (size_t id = 0; id < data.vocab.size(); ++id) {
      if (!data.vocab[id].empty()) ids_.emplace(data.vocab[id], static_cast<int32_t>(id));
    }
    for (const AddedToken& token : data.added_tokens) ids_[token.content] = token.id;
  }
  // -1 when `text` is empty; an error when there is no such token.
  absl::StatusOr<int32_t> Find(const std::string& text, std::string_view what) const {
    if (text.empty()) return -1;
    const auto it = ids_.find(text);
    if (it == ids_.end()) return InvalidArgument(what, " \"", text, "\" is not a token");
    return it->second;
  }

 private:
  std::unordered_map<std::string, int32_t> ids_;
};

absl::Status ReadNamedTokens(const json& root, const Config& config, TokenizerData* data) {
  const TokenIndex index(*data);
  const json* unknown = Member(*Member(root, "model"), "unk_token");
  if (unknown != nullptr) {
    if (!unknown->is_string()) return InvalidArgument("\"unk_token\" is not a string");
    SPOTD_ASSIGN_OR_RETURN(data->unknown, index.Find(unknown->get<std::string>(), "unk_token"));
  }
  SPOTD_ASSIGN_OR_RETURN(const std::string prefix, ReadPostProcessor(root));
  SPOTD_ASSIGN_OR_RETURN(std::string bos, config.Token("bos_token"));
  SPOTD_ASSIGN_OR_RETURN(const std::string eos, config.Token("eos_token"));
  SPOTD_ASSIGN_OR_RETURN(const std::string pad, config.Token("pad_token"));
  SPOTD_ASSIGN_OR_RETURN(const std::optional<bool> add_bos, config.Bool("add_bos_token"));
  if (!prefix.empty()) bos = prefix;
  SPOTD_ASSIGN_OR_RETURN(data->bos, index.Find(bos, "bos_token"));
  SPOTD_ASSIGN_OR_RETURN(data->eos, index.Find(eos, "eos_token"));
  SPOTD_ASSIGN_OR_RETURN(data->pad, index.Find(pad, "pad_token"));
  data->add_bos = add_bos.value_or(!prefix.empty()) && data->bos >= 0;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerData> ParseTokenizerJson(std::string_view tokenizer_json,
                                                 std::string_view tokenizer_config_json) {
  const json root = json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return InvalidArgument("the tokenizer is not a JSON object");
  SPOTD_ASSIGN_OR_RETURN(const Config config, Config::Parse(tokenizer_config_json));
  TokenizerData data;
  SPOTD_RETURN_IF_ERROR(ReadModel(root, &data));
  SPOTD_RETURN_IF_ERROR(ReadAddedTokens(root, &data));
  SPOTD_ASSIGN_OR_RETURN(data.nfc, ReadNormalizer(root));
  SPOTD_ASSIGN_OR_RETURN(data.pre_tokenizer, ReadPreTokenizer(root));
  SPOTD_RETURN_IF_ERROR(CheckDecoder(root));
  SPOTD_RETURN_IF_ERROR(ReadNamedTokens(root, config, &data));
  SPOTD_ASSIGN_OR_RETURN(data.chat_template, config.ChatTemplate());
  return data;
}

}  // namespace spotd::text
