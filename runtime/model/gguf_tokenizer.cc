#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/checkpoint.h"
#include "runtime/text/pre_tokenizers.h"

namespace spotd::model {
namespace {

// llama.cpp's token classes; the others (normal, byte) are plain vocabulary.
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;
constexpr int64_t kUnused = 5;

constexpr int64_t kMaxVocab = int64_t{1} << 24;

// Moves the tokens that BPE never produces out of the vocabulary.
absl::Status ClassifyTokens(const formats::GgufFile& file, text::TokenizerData* data) {
  constexpr const char* kKey = "tokenizer.ggml.token_type";
  if (!file.Has(kKey)) return absl::OkStatus();
  SPOTD_ASSIGN_OR_RETURN(const std::vector<int64_t> types, file.Ints(kKey));
  if (types.size() != data->vocab.size()) {
    return DataLoss(file.path(), ": ", kKey, " has ", types.size(), " entries for ",
                    data->vocab.size(), " tokens");
  }
  for (size_t id = 0; id < types.size(); ++id) {
    std::string& token = data->vocab[id];
    if ((types[id] == kControl || types[id] == kUserDefined) && !token.empty()) {
      text::AddedToken added;
      added.id = static_cast<int32_t>(id);
      added.content = std::move(token);
      added.special = types[id] == kControl;
      data->added_tokens.push_back(std::move(added));
      token.clear();
    } else if (types[id] == kUnused) {
      token.clear();
    }
  }
  return absl::OkStatus();
}

// "Ġ t" -> ("Ġ", "t"). A space separates: the byte-level alphabet has none.
absl::Status ReadMerges(const formats::GgufFile& file, text::TokenizerData* data) {
  SPOTD_ASSIGN_OR_RETURN(const std::vector<std::string> merges,
                         file.Strings("tokenizer.ggml.merges"));
  data->merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    if (space == std::string::npos || space + 1 == merges[i].size()) {
      return DataLoss(file.path(), ": tokenizer.ggml.merges: entry ", i, " is not a pair");
    }
    data->merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
  }
  return absl::OkStatus();
}

absl::Status ReadSpecialIds(const formats::GgufFile& file, text::TokenizerData* data) {
  const auto read = [&](const char* key, int32_t* id) -> absl::Status {
    SPOTD_ASSIGN_OR_RETURN(const int64_t value, file.IntOr(key, -1));
    // Converters write 2^32 - 1 for "none".
    if (value == -1 || value == std::numeric_limits<uint32_t>::max()) return absl::OkStatus();
    if (value < 0 || value >= static_cast<int64_t>(data->vocab.size())) {
      return DataLoss(file.path(), ": ", key, " is ", value, ", outside the vocabulary of ",
                      data->vocab.size());
    }
    *id = static_cast<int32_t>(value);
    return absl::OkStatus();
  };
  SPOTD_RETURN_IF_ERROR(read("tokenizer.ggml.bos_token_id", &data->bos));
  SPOTD_RETURN_IF_ERROR(read("tokenizer.ggml.eos_token_id", &data->eos));
  return read("tokenizer.ggml.padding_token_id", &data->pad);
}

}  // namespace

absl::StatusOr<text::TokenizerData> ReadGgufTokenizer(const formats::GgufFile& file) {
  SPOTD_ASSIGN_OR_RETURN(const std::string kind, file.String("tokenizer.ggml.model"));
  if (kind != "gpt2") {
    return Unimplemented(file.path(), ": tokenizer.ggml.model is \"", kind,
                         "\"; byte-level BPE (\"gpt2\") is supported");
  }
  SPOTD_ASSIGN_OR_RETURN(const std::string pre, file.StringOr("tokenizer.ggml.pre", "default"));
  text::TokenizerData data;
  const auto splitting = text::PreTokenizerByName(pre);
  if (!splitting.ok()) {
    return absl::Status(splitting.status().code(),
                        Concat(file.path(), ": ", std::string(splitting.status().message())));
  }
  data.pre_tokenizer = splitting->pre_tokenizer;
  data.nfc = splitting->nfc;
  data.ignore_merges = splitting->ignore_merges;
  SPOTD_ASSIGN_OR_RETURN(data.vocab, file.Strings("tokenizer.ggml.tokens"));
  if (data.vocab.empty() || static_cast<int64_t>(data.vocab.size()) > kMaxVocab) {
    return DataLoss(file.path(), ": tokenizer.ggml.tokens has ", data.vocab.size(), " entries");
  }
  SPOTD_RETURN_IF_ERROR(ClassifyTokens(file, &data));
  SPOTD_RETURN_IF_ERROR(ReadMerges(file, &data));
  SPOTD_RETURN_IF_ERROR(ReadSpecialIds(file, &data));
  SPOTD_ASSIGN_OR_RETURN(data.add_bos,
                         file.BoolOr("tokenizer.ggml.add_bos_token", splitting->add_bos));
  SPOTD_ASSIGN_OR_RETURN(data.chat_template, file.StringOr("tokenizer.chat_template", ""));
  return data;
}

}  // namespace spotd::model
