#include "runtime/text/added_tokens.h"

#include <algorithm>

#include "runtime/text/utf8.h"

namespace spotd::text {
namespace {

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t WhiteSpaceAtStart(std::string_view text) {
  size_t at = 0;
  size_t length = 0;
  for (; at < text.size(); at += length) {
    if (!IsWhiteSpace(DecodeUtf8(text.data() + at, &length))) break;
  }
  return at;
}

// Offset at which the white space at the end begins.
size_t WhiteSpaceAtEnd(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while ((static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t length = 0;
    if (!IsWhiteSpace(DecodeUtf8(text.data() + begin, &length))) break;
    end = begin;
  }
  return end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher() : nodes_(1) {}

void AddedTokenMatcher::Add(const AddedToken& token) {
  if (token.content.empty()) return;
  uint32_t node = 0;
  for (const char byte : token.content) {
    uint32_t child = Child(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[node].children.emplace_back(byte, child);
    }
    node = child;
  }
  if (nodes_[node].token >= 0) return;
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.special, token.lstrip, token.rstrip});
  starts_[static_cast<uint8_t>(token.content[0])] = true;
}

uint32_t AddedTokenMatcher::Child(uint32_t node, char byte) const {
  for (const auto& [label, child] : nodes_[node].children) {
    if (label == byte) return child;
  }
  return 0;
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text, size_t* length) const {
  int32_t best = -1;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    node = Child(node, text[i]);
    if (node == 0) break;
    if (nodes_[node].token < 0) continue;
    best = nodes_[node].token;
    *length = i + 1;
  }
  return best;
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::Split(std::string_view text,
                                                                 bool skip_special) const {
  std::vector<Segment> segments;
  size_t done = 0;  // everything before is in a segment
  for (size_t at = 0; at < text.size();) {
    size_t length = 1;
    const int32_t index =
        starts_[static_cast<uint8_t>(text[at])] ? LongestAt(text.substr(at), &length) : -1;
    const size_t begin = at;
    at += length;
    if (index < 0) continue;
    const Rule& token = tokens_[static_cast<size_t>(index)];
    if (token.special && skip_special) continue;
    const size_t first =
        token.lstrip ? std::max(WhiteSpaceAtEnd(text.substr(0, begin)), done) : begin;
    const size_t last = token.rstrip ? at + WhiteSpaceAtStart(text.substr(at)) : at;
    if (first > done) segments.push_back({text.substr(done, first - done), -1});
    segments.push_back({text.substr(begin, at - begin), token.id});
    done = last;
  }
  if (done < text.size()) segments.push_back({text.substr(done), -1});
  return segments;
}

}  // namespace spotd::text
