#include "runtime/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"
#include "runtime/text/added_tokens.h"
#include "runtime/text/bpe.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/nfc.h"
#include "runtime/text/pre_splitter.h"
#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

constexpr size_t kMaxVocab = size_t{1} << 24;

// What each id stands for.
struct Entry {
  std::string text;   // as the checkpoint writes it
  std::string bytes;  // what it decodes to
  bool special = false;
};

class BpeTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     bool keep_special) const override;

  std::string_view TokenBytes(int32_t id) const override {
    return IsKnown(id) && !EntryOf(id).special ? EntryOf(id).bytes : std::string_view();
  }
  bool IsSpecial(int32_t id) const override { return IsKnown(id) && EntryOf(id).special; }
  int32_t vocab_size() const override { return static_cast<int32_t>(entries_.size()); }
  int32_t bos() const override { return bos_; }
  int32_t eos() const override { return eos_; }
  std::string TokenText(int32_t id) const override {
    return IsKnown(id) ? EntryOf(id).text : std::string();
  }

 private:
  explicit BpeTokenizer(PreSplitter splitter) : splitter_(std::move(splitter)) {}

  bool IsKnown(int32_t id) const { return id >= 0 && id < vocab_size(); }
  const Entry& EntryOf(int32_t id) const { return entries_[static_cast<size_t>(id)]; }

  void AddTokens(const std::vector<AddedToken>& tokens);
  // Text between the added tokens that are looked for before normalisation.
  absl::Status EncodePlain(std::string_view text, bool skip_special,
                           std::vector<int32_t>* ids) const;

  std::vector<Entry> entries_;  // by id
  AddedTokenMatcher raw_tokens_;
  AddedTokenMatcher normalized_tokens_;  // looked for in normalised text
  PreSplitter splitter_;
  std::unique_ptr<Bpe> bpe_;
  bool nfc_ = false;
  bool add_bos_ = false;
  int32_t bos_ = -1;
  int32_t eos_ = -1;
};

// The bytes of a token's text; text outside the byte-level alphabet (as control tokens may have)
// stands for itself.
std::string BytesOf(const std::string& text) {
  auto bytes = AlphabetToBytes(text);
  return bytes ? *std::move(bytes) : text;
}

absl::Status CheckIds(const TokenizerData& data) {
  if (data.vocab.size() > kMaxVocab) return InvalidArgument("the vocabulary is too large");
  for (const AddedToken& token : data.added_tokens) {
    if (token.id < 0 || static_cast<size_t>(token.id) >= kMaxVocab) {
      return InvalidArgument("added token \"", token.content, "\" has id ", token.id);
    }
    if (FirstInvalidUtf8(token.content)) {
      return InvalidArgument("added token ", token.id, " is not valid UTF-8");
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> BpeWords(const TokenizerData& data) {
  std::vector<std::string> words;
  words.reserve(data.vocab.size());
  for (const std::string& text : data.vocab) words.push_back(AlphabetToBytes(text).value_or(""));
  return words;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Create(TokenizerData data) {
  SPOTD_RETURN_IF_ERROR(CheckIds(data));
  SPOTD_ASSIGN_OR_RETURN(PreSplitter splitter, PreSplitter::Create(data.pre_tokenizer));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(splitter)));
  SPOTD_ASSIGN_OR_RETURN(tokenizer->bpe_, Bpe::Create(data, BpeWords(data)));
  tokenizer->nfc_ = data.nfc;
  tokenizer->add_bos_ = data.add_bos;
  for (std::string& text : data.vocab) {
    std::string bytes = BytesOf(text);
    tokenizer->entries_.push_back({std::move(text), std::move(bytes)});
  }
  tokenizer->AddTokens(data.added_tokens);
  for (const int32_t id : {data.bos, data.eos, data.unknown}) {
    if (id >= tokenizer->vocab_size()) return InvalidArgument("token id ", id, " does not exist");
  }
  tokenizer->bos_ = data.bos;
  tokenizer->eos_ = data.eos;
  return tokenizer;
}

void BpeTokenizer::AddTokens(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) {
    const auto id = static_cast<size_t>(token.id);
    if (id >= entries_.size()) entries_.resize(id + 1);
    entries_[id] = {token.content, BytesOf(token.content), token.special};
    AddedToken matched = token;
    if (token.normalized && nfc_) matched.content = Nfc(token.content);
    (token.normalized ? normalized_tokens_ : raw_tokens_).Add(matched);
  }
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(std::string_view text,
                                                          const EncodeOptions& options) const {
  if (const auto offset = FirstInvalidUtf8(text)) {
    return InvalidArgument("the text is not valid UTF-8 at byte ", *offset);
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (options.add_special && add_bos_ && bos_ >= 0) ids.push_back(bos_);
  const bool skip_special = !options.parse_special;
  for (const auto& segment : raw_tokens_.Split(text, skip_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      SPOTD_RETURN_IF_ERROR(EncodePlain(segment.text, skip_special, &ids));
    }
  }
  return ids;
}

absl::Status BpeTokenizer::EncodePlain(std::string_view text, bool skip_special,
                                       std::vector<int32_t>* ids) const {
  std::string normalized;
  if (nfc_) {
    normalized = Nfc(text);
    text = normalized;
  }
  for (const auto& segment : normalized_tokens_.Split(text, skip_special)) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
      continue;
    }
    SPOTD_RETURN_IF_ERROR(splitter_.Split(
        segment.text, [this, ids](std::string_view piece) { bpe_->Encode(piece, ids); }));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> BpeTokenizer::Decode(std::span<const int32_t> ids,
                                                 bool keep_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!IsKnown(id)) {
      return InvalidArgument("token id ", id, " is outside the vocabulary of ", vocab_size());
    }
    const Entry& entry = EntryOf(id);
    if (keep_special || !entry.special) bytes += entry.bytes;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  return BpeTokenizer::Create(std::move(data));
}

}  // namespace spotd::text
