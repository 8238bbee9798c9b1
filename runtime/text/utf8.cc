#include "runtime/text/utf8.h"

#include <cstring>

namespace spotd::text {
namespace {

// What may follow a leading byte: how many continuation bytes, and the range of the first of them
// (the others are 80..BF). Table 3-7 of the Unicode standard.
struct Lead {
  uint8_t continuations = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
};

std::optional<Lead> LeadOf(uint8_t byte) {
  if (byte < 0x80) return Lead{.continuations = 0};
  if (byte < 0xC2) return std::nullopt;
  if (byte < 0xE0) return Lead{.continuations = 1};
  if (byte == 0xE0) return Lead{.continuations = 2, .low = 0xA0};
  if (byte == 0xED) return Lead{.continuations = 2, .high = 0x9F};  // no surrogates
  if (byte < 0xF0) return Lead{.continuations = 2};
  if (byte == 0xF0) return Lead{.continuations = 3, .low = 0x90};
  if (byte < 0xF4) return Lead{.continuations = 3};
  if (byte == 0xF4) return Lead{.continuations = 3, .high = 0x8F};  // up to U+10FFFF
  return std::nullopt;
}

// Bytes at the front of `bytes` that are ASCII, counted eight at a time.
size_t AsciiRun(std::string_view bytes) {
  size_t run = 0;
  for (uint64_t word; run + sizeof word <= bytes.size(); run += sizeof word) {
    std::memcpy(&word, bytes.data() + run, sizeof word);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (run < bytes.size() && static_cast<uint8_t>(bytes[run]) < 0x80) ++run;
  return run;
}

}  // namespace

Utf8Step NextUtf8(std::string_view bytes) {
  const std::optional<Lead> lead = LeadOf(static_cast<uint8_t>(bytes[0]));
  if (!lead) return {Utf8Step::Kind::kBroken, 1};
  uint8_t low = lead->low;
  uint8_t high = lead->high;
  for (size_t i = 1; i <= lead->continuations; ++i) {
    if (i == bytes.size()) return {Utf8Step::Kind::kIncomplete, i};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    if (byte < low || byte > high) return {Utf8Step::Kind::kBroken, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::Kind::kCharacter, lead->continuations + size_t{1}};
}

std::optional<size_t> FirstInvalidUtf8(std::string_view bytes) {
  size_t at = 0;
  while (true) {
    at += AsciiRun(bytes.substr(at));
    if (at == bytes.size()) return std::nullopt;
    const Utf8Step step = NextUtf8(bytes.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) return at;
    at += step.length;
  }
}

size_t AppendLossyUtf8(std::string_view bytes, bool final, std::string* out) {
  size_t at = 0;
  while (true) {
    const size_t ascii = AsciiRun(bytes.substr(at));
    out->append(bytes.substr(at, ascii));
    at += ascii;
    if (at == bytes.size()) return at;
    const Utf8Step step = NextUtf8(bytes.substr(at));
    if (step.kind == Utf8Step::Kind::kIncomplete && !final) return at;
    if (step.kind == Utf8Step::Kind::kCharacter) {
      out->append(bytes.substr(at, step.length));
    } else {
      out->append(kReplacementCharacter);
    }
    at += step.length;
  }
}

uint32_t DecodeUtf8(const char* text, size_t* length) {
  const auto* byte = reinterpret_cast<const uint8_t*>(text);
  if (byte[0] < 0x80) {
    *length = 1;
    return byte[0];
  }
  if (byte[0] < 0xE0) {
    *length = 2;
    return (byte[0] & 0x1Fu) << 6 | (byte[1] & 0x3Fu);
  }
  if (byte[0] < 0xF0) {
    *length = 3;
    return (byte[0] & 0x0Fu) << 12 | (byte[1] & 0x3Fu) << 6 | (byte[2] & 0x3Fu);
  }
  *length = 4;
  return (byte[0] & 0x07u) << 18 | (byte[1] & 0x3Fu) << 12 | (byte[2] & 0x3Fu) << 6 |
         (byte[3] & 0x3Fu);
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace spotd::text
