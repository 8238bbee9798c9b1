#include "runtime/text/pre_splitter.h"

#include <cstdint>
#include <string>

#include "kernels/core/status.h"
#include "runtime/text/unicode_update.h"

namespace spotd::text {
namespace {

constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

size_t CharacterLength(char first_byte) {
  const auto byte = static_cast<uint8_t>(first_byte);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace

absl::StatusOr<PreSplitter> PreSplitter::Create(const TokenizerData::PreTokenizer& rules) {
  PreSplitter splitter;
  const auto add = [&splitter](const std::string& pattern) {
    auto regex = Regex::Compile(pattern);
    if (regex.ok()) splitter.stages_.push_back(*std::move(regex));
    return regex.status();
  };
  if (rules.digits_apart) SPOTD_RETURN_IF_ERROR(add(kDigitPattern));
  for (const std::string& pattern : rules.patterns) SPOTD_RETURN_IF_ERROR(add(pattern));
  splitter.prefix_stage_ = splitter.stages_.size();
  splitter.add_prefix_space_ = rules.add_prefix_space;
  if (rules.gpt2_pattern) SPOTD_RETURN_IF_ERROR(add(kGpt2));
  return splitter;
}

absl::Status PreSplitter::Split(std::string_view text, const Sink& sink) const {
  if (text.empty()) return absl::OkStatus();
  const std::string updated = WithOldCharacters(text);
  return SplitFrom(0, Piece{text, updated.empty() ? text : std::string_view(updated)}, sink);
}

absl::Status PreSplitter::SplitFrom(size_t stage, const Piece& piece, const Sink& sink) const {
  if (stage == prefix_stage_ && add_prefix_space_ && piece.text.front() != ' ') {
    const std::string text = Concat(" ", piece.text);
    const std::string seen = Concat(" ", piece.seen);
    return SplitByPattern(stage, Piece{text, seen}, sink);
  }
  return SplitByPattern(stage, piece, sink);
}

absl::Status PreSplitter::SplitByPattern(size_t stage, const Piece& piece, const Sink& sink) const {
  if (stage == stages_.size()) {
    sink(piece.text);
    return absl::OkStatus();
  }
  const Regex& regex = stages_[stage];
  size_t done = 0;  // everything before was handed on
  size_t from = 0;
  size_t last_end = std::string_view::npos;
  while (from <= piece.text.size()) {
    size_t begin = 0;
    size_t end = 0;
    const Regex::Outcome outcome = regex.Find(piece.seen, from, &begin, &end);
    if (outcome == Regex::Outcome::kNoMatch) break;
    if (outcome == Regex::Outcome::kTooMuchWork) {
      return InvalidArgument("the text makes pattern \"", regex.pattern(), "\" work without end");
    }
    if (begin == end && end == last_end) {  // an empty match right after a match does not count
      if (from == piece.text.size()) break;
      from += CharacterLength(piece.text[from]);
      continue;
    }
    if (begin > done) SPOTD_RETURN_IF_ERROR(SplitFrom(stage + 1, piece.Part(done, begin), sink));
    if (end > begin) SPOTD_RETURN_IF_ERROR(SplitFrom(stage + 1, piece.Part(begin, end), sink));
    done = from = last_end = end;
  }
  if (done == piece.text.size()) return absl::OkStatus();
  return SplitFrom(stage + 1, piece.Part(done, piece.text.size()), sink);
}

}  // namespace spotd::text
