#include "runtime/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "kernels/core/status.h"
#include "runtime/text/jinja/unicode.h"
#include "runtime/text/utf8.h"

namespace spotd::text::jinja {
namespace {

constexpr std::array<std::string_view, 25> kOperators = {
    "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
    ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", "|", ",", ".", ":"};

bool IsAsciiDigit(char c) {
  return c >= '0' && c <= '9';
}
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<uint8_t>(c) >= 0x80;
}
bool IsNamePart(char c) {
  return IsNameStart(c) || IsAsciiDigit(c);
}

// All line ends become \n, and one at the very end goes.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}
  absl::StatusOr<std::vector<Token>> Run();

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool StartsWith(std::string_view prefix) const {
    return Rest().substr(0, prefix.size()) == prefix;
  }
  Position Here() const { return {line_, static_cast<int>(at_ - line_begin_) + 1}; }
  void Advance(size_t bytes);
  void SkipSpace();
  void SkipSpaceUpTo(std::string_view space) { Advance(Rest().size() - space.size()); }

  void AddText(std::string_view text, const Position& at);
  // The text before a tag that begins with `sign` after its opening two characters.
  std::string_view TrimBeforeTag(std::string_view text, char sign, bool is_variable) const;
  absl::Status ReadTag();
  absl::Status SkipComment();
  bool AtRaw(std::string_view name, size_t* length, char* close_sign) const;
  absl::Status ReadRaw();
  void EndBlock(char sign);
  absl::Status ReadInside(std::string_view close, bool is_block);
  absl::Status ReadToken();
  absl::Status ReadString(char quote);
  absl::Status ReadEscape(std::string* out);
  absl::Status ReadNumber();
  void Add(Token::Kind kind, std::string text, const Position& at) {
    tokens_.push_back({kind, std::move(text), at});
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  size_t line_begin_ = 0;
  bool line_starting_ = true;  // the tag or text before ended with a newline
  std::vector<Token> tokens_;
};

void Lexer::Advance(size_t bytes) {
  for (const size_t end = at_ + bytes; at_ < end; ++at_) {
    if (source_[at_] != '\n') continue;
    ++line_;
    line_begin_ = at_ + 1;
  }
}

void Lexer::SkipSpace() {
  SkipSpaceUpTo(StripLeft(Rest()));
}

void Lexer::AddText(std::string_view text, const Position& at) {
  if (!text.empty()) Add(Token::Kind::kText, std::string(text), at);
}

std::string_view Lexer::TrimBeforeTag(std::string_view text, char sign, bool is_variable) const {
  if (sign == '-') return StripRight(text);
  if (sign == '+' || is_variable) return text;
  const size_t newline = text.rfind('\n');
  const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
  if (line == 0 && !line_starting_) return text;
  return StripLeft(text.substr(line)).empty() ? text.substr(0, line) : text;
}

absl::StatusOr<std::vector<Token>> Lexer::Run() {
  while (at_ < source_.size()) {
    const size_t begin = at_;
    const Position position = Here();
    size_t tag = source_.find('{', at_);
    while (tag != std::string::npos &&
           (tag + 1 == source_.size() ||
            std::string_view("{%#").find(source_[tag + 1]) == std::string_view::npos)) {
      tag = source_.find('{', tag + 1);
    }
    const size_t end = std::min(tag, source_.size());
    const auto text = std::string_view(source_).substr(begin, end - begin);
    Advance(text.size());
    if (at_ == source_.size()) {
      AddText(text, position);
      break;
    }
    const char sign = at_ + 2 < source_.size() ? source_[at_ + 2] : '\0';
    AddText(TrimBeforeTag(text, sign, source_[at_ + 1] == '{'), position);
    SPOTD_RETURN_IF_ERROR(ReadTag());
    line_starting_ = source_[at_ - 1] == '\n';
  }
  Add(Token::Kind::kEnd, "", Here());
  return std::move(tokens_);
}

absl::Status Lexer::ReadTag() {
  if (StartsWith("{#")) return SkipComment();
  size_t length = 0;
  char close_sign = '\0';
  if (AtRaw("raw", &length, &close_sign)) return ReadRaw();
  const bool is_block = StartsWith("{%");
  Add(is_block ? Token::Kind::kBlockBegin : Token::Kind::kVariableBegin, "", Here());
  Advance(2);
  if (StartsWith("-") || (is_block && StartsWith("+"))) Advance(1);
  return ReadInside(is_block ? "%}" : "}}", is_block);
}

// After the closing characters of a block or comment: `sign` stood before them.
void Lexer::EndBlock(char sign) {
  if (sign == '-') {
    SkipSpace();
  } else if (sign != '+' && StartsWith("\n")) {
    Advance(1);
  }
}

absl::Status Lexer::SkipComment() {
  const Position begin = Here();
  Advance(2);
  const size_t end = source_.find("#}", at_);
  if (end == std::string::npos) return ErrorAt(begin, "a comment is not closed");
  const char sign = end > at_ ? source_[end - 1] : '\0';
  Advance(end + 2 - at_);
  EndBlock(sign);
  return absl::OkStatus();
}

// Is a tag {% name %} here? Its length, and the sign before its end.
bool Lexer::AtRaw(std::string_view name, size_t* length, char* close_sign) const {
  if (!StartsWith("{%")) return false;
  std::string_view rest = Rest().substr(2);
  if (!rest.empty() && (rest[0] == '-' || rest[0] == '+')) rest.remove_prefix(1);
  rest = StripLeft(rest);
  if (rest.substr(0, name.size()) != name) return false;
  rest = StripLeft(rest.substr(name.size()));
  *close_sign = !rest.empty() && (rest[0] == '-' || rest[0] == '+') ? rest[0] : '\0';
  if (*close_sign != '\0') rest.remove_prefix(1);
  if (rest.substr(0, 2) != "%}") return false;
  *length = Rest().size() - rest.size() + 2;
  return true;
}

absl::Status Lexer::ReadRaw() {
  const Position begin = Here();
  size_t length = 0;
  char sign = '\0';
  AtRaw("raw", &length, &sign);
  Advance(length);
  if (sign == '-') SkipSpace();
  const size_t text_begin = at_;
  const Position text_position = Here();
  while (!AtRaw("endraw", &length, &sign)) {
    const size_t next = source_.find("{%", at_ + 1);
    if (at_ == source_.size() || next == std::string::npos) {
      return ErrorAt(begin, "a raw block is not closed");
    }
    Advance(next - at_);
  }
  const auto text = std::string_view(source_).substr(text_begin, at_ - text_begin);
  line_starting_ = false;
  AddText(TrimBeforeTag(text, source_[at_ + 2], /*is_variable=*/false), text_position);
  Advance(length);
  EndBlock(sign);
  return absl::OkStatus();
}

absl::Status Lexer::ReadInside(std::string_view close, bool is_block) {
  const Position begin = Here();
  int open = 0;  // brackets; while one is open, "}}" closes two dicts and not the tag
  while (true) {
    SkipSpace();
    if (at_ == source_.size()) return ErrorAt(begin, Concat("\"", close, "\" is missing"));
    const char sign = source_[at_];
    const bool signed_end =
        (sign == '-' || (sign == '+' && is_block)) && Rest().substr(1, 2) == close;
    if (open == 0 && (signed_end || StartsWith(close))) {
      Add(is_block ? Token::Kind::kBlockEnd : Token::Kind::kVariableEnd, "", Here());
      Advance(signed_end ? 3 : 2);
      if (is_block) {
        EndBlock(signed_end ? sign : '\0');
      } else if (signed_end) {
        SkipSpace();
      }
      return absl::OkStatus();
    }
    SPOTD_RETURN_IF_ERROR(ReadToken());
    const Token& token = tokens_.back();
    if (token.kind != Token::Kind::kOperator || token.text.size() != 1) continue;
    if (std::string_view("([{").find(token.text) != std::string_view::npos) ++open;
    if (std::string_view(")]}").find(token.text) != std::string_view::npos && --open < 0) {
      return ErrorAt(token.at, Concat("\"", token.text, "\" closes nothing"));
    }
  }
}

absl::Status Lexer::ReadToken() {
  const Position position = Here();
  const char first = source_[at_];
  if (IsNameStart(first)) {
    size_t end = at_;
    while (end < source_.size() && IsNamePart(source_[end])) ++end;
    Add(Token::Kind::kName, source_.substr(at_, end - at_), position);
    Advance(end - at_);
    return absl::OkStatus();
  }
  if (IsAsciiDigit(first)) return ReadNumber();
  if (first == '"' || first == '\'') return ReadString(first);
  for (const std::string_view op : kOperators) {
    if (!StartsWith(op)) continue;
    Add(Token::Kind::kOperator, std::string(op), position);
    Advance(op.size());
    return absl::OkStatus();
  }
  size_t length = 0;
  DecodeUtf8(source_.data() + at_, &length);
  return ErrorAt(position, Concat("unexpected character \"", source_.substr(at_, length), "\""));
}

absl::Status Lexer::ReadNumber() {
  Token token;
  token.kind = Token::Kind::kInt;
  token.at = Here();
  std::string digits;
  size_t end = at_;
  const auto read_digits = [&] {
    for (; end < source_.size() && (IsAsciiDigit(source_[end]) || source_[end] == '_'); ++end) {
      if (source_[end] != '_') digits += source_[end];
    }
  };
  read_digits();
  const auto digit_at = [&](size_t i) { return i < source_.size() && IsAsciiDigit(source_[i]); };
  if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
    token.kind = Token::Kind::kFloat;
    digits += source_[end++];
    read_digits();
  }
  if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
    const bool is_signed =
        end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
    if (digit_at(end + 1 + static_cast<size_t>(is_signed))) {
      token.kind = Token::Kind::kFloat;
      digits += 'e';
      if (is_signed && source_[end + 1] == '-') digits += '-';
      end += 1 + static_cast<size_t>(is_signed);
      read_digits();
    }
  }
  const char* last = digits.data() + digits.size();
  const bool is_int = token.kind == Token::Kind::kInt;
  const auto result = is_int ? std::from_chars(digits.data(), last, token.int_value)
                             : std::from_chars(digits.data(), last, token.float_value);
  if (result.ec != std::errc())
    return ErrorAt(token.at, Concat("number ", digits, " is too large"));
  tokens_.push_back(std::move(token));
  Advance(end - at_);
  return absl::OkStatus();
}

absl::Status Lexer::ReadString(char quote) {
  const Position begin = Here();
  std::string text;
  Advance(1);
  while (true) {
    if (at_ == source_.size()) return ErrorAt(begin, "a string is not closed");
    const char c = source_[at_];
    if (c == quote) break;
    if (c == '\\') {
      SPOTD_RETURN_IF_ERROR(ReadEscape(&text));
    } else {
      text += c;
      Advance(1);
    }
  }
  Advance(1);
  Add(Token::Kind::kString, std::move(text), begin);
  return absl::OkStatus();
}

// As in Python's string literals; an unknown escape stays as it is written.
absl::Status Lexer::ReadEscape(std::string* out) {
  const Position begin = Here();
  Advance(1);
  if (at_ == source_.size()) return ErrorAt(begin, "a string is not closed");
  const char c = source_[at_];
  constexpr std::string_view kSimple = "\\'\"abfnrtv";
  constexpr std::string_view kMeaning = "\\'\"\a\b\f\n\r\t\v";
  if (const size_t which = kSimple.find(c); which != std::string_view::npos) {
    *out += kMeaning[which];
    Advance(1);
    return absl::OkStatus();
  }
  const bool octal = c >= '0' && c <= '7';
  const size_t max_digits = octal ? 3 : c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (max_digits == 0) {
    if (c == '\n') {  // an escaped line end is nothing
      Advance(1);
    } else {
      *out += '\\';
    }
    return absl::OkStatus();
  }
  if (!octal) Advance(1);
  uint32_t value = 0;
  const char* digits = source_.data() + at_;
  const char* limit = digits + std::min(max_digits, source_.size() - at_);
  const auto [end, error] = std::from_chars(digits, limit, value, octal ? 8 : 16);
  const bool complete = octal || end == digits + max_digits;
  const bool scalar = value < 0x110000 && (value < 0xD800 || value > 0xDFFF);
  if (error != std::errc() || !complete || !scalar)
    return ErrorAt(begin, "a broken escape in a string");
  AppendUtf8(value, out);
  Advance(static_cast<size_t>(end - digits));
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrorAt(const Position& at, const std::string& reason) {
  return InvalidArgument("line ", at.line, ", column ", at.column, ": ", reason);
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (const auto offset = FirstInvalidUtf8(source)) {
    return InvalidArgument("the template is not valid UTF-8 at byte ", *offset);
  }
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace spotd::text::jinja
