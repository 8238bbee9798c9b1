#include "runtime/engine/special_text.h"

#include <algorithm>

#include "kernels/core/status.h"

namespace spotd::engine {
namespace {

constexpr std::string_view kMark = "\xEF\xB7\x90";  // U+FDD0

std::string WithoutMarks(std::string_view text) {
  std::string out;
  for (size_t mark = text.find(kMark); mark != std::string_view::npos; mark = text.find(kMark)) {
    out += text.substr(0, mark);
    text.remove_prefix(mark + kMark.size());
  }
  return out.append(text);
}

bool IsContinuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

size_t FirstCharacterBytes(std::string_view text) {
  size_t bytes = 1;
  while (bytes < text.size() && IsContinuation(text[bytes])) ++bytes;
  return bytes;
}

size_t LastCharacterStart(std::string_view text) {
  size_t start = text.size();
  while (start > 0 && IsContinuation(text[--start])) {
  }
  return start;
}

}  // namespace

std::string WrittenOut(const text::Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  std::string text;
  for (const int32_t token : tokens) {
    if (tokenizer.IsSpecial(token)) {
      text += tokenizer.TokenText(token);
    } else {
      text += tokenizer.TokenBytes(token);
    }
  }
  return text;
}

SpecialText::SpecialText(const text::Tokenizer* tokenizer) : tokenizer_(tokenizer) {
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    if (!tokenizer->IsSpecial(id)) continue;
    const std::string text = tokenizer->TokenText(id);
    if (text.empty()) continue;
    by_first_byte_[static_cast<unsigned char>(text[0])].push_back(text);
    longest_ = std::max(longest_, text.size());
  }
  for (std::vector<std::string>& texts : by_first_byte_) {
    std::sort(texts.begin(), texts.end(),
              [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  }
}

std::string_view SpecialText::MatchAt(std::string_view text) const {
  if (text.empty()) return {};
  for (const std::string& special : by_first_byte_[static_cast<unsigned char>(text[0])]) {
    if (text.starts_with(special)) return special;
  }
  return {};
}

std::string SpecialText::Protect(std::string_view content) const {
  const std::string clean = WithoutMarks(content);
  const std::string_view text = clean;
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const std::string_view special = MatchAt(text.substr(i));
    if (special.empty()) {
      out += text[i++];
      continue;
    }
    const size_t head = FirstCharacterBytes(special);
    out.append(special.substr(0, head)).append(kMark).append(special.substr(head));
    i += special.size();
  }
  return out;
}

absl::StatusOr<std::vector<int32_t>> SpecialText::Encode(std::string_view rendered) const {
  std::vector<int32_t> tokens;
  const auto encode = [&](std::string_view text, bool parse_special) -> absl::Status {
    if (text.empty()) return absl::OkStatus();
    SPOTD_ASSIGN_OR_RETURN(const std::vector<int32_t> part,
                           tokenizer_->Encode(text, {.parse_special = parse_special}));
    tokens.insert(tokens.end(), part.begin(), part.end());
    return absl::OkStatus();
  };
  for (size_t mark = rendered.find(kMark); mark != std::string_view::npos;
       mark = rendered.find(kMark)) {
    const size_t start = LastCharacterStart(rendered.substr(0, mark));
    std::string literal(rendered.substr(start, mark - start));  // the first character of it
    const size_t head = literal.size();
    literal += rendered.substr(mark + kMark.size(), longest_);
    literal.resize(std::max(head, MatchAt(literal).size()));
    SPOTD_RETURN_IF_ERROR(encode(rendered.substr(0, start), true));
    SPOTD_RETURN_IF_ERROR(encode(literal, false));
    rendered.remove_prefix(mark + kMark.size() + literal.size() - head);
  }
  SPOTD_RETURN_IF_ERROR(encode(rendered, true));
  return tokens;
}

}  // namespace spotd::engine
