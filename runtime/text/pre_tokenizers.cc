#include "runtime/text/pre_tokenizers.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/core/status.h"

namespace spotd::text {
namespace {

// Contractions, then words with at most one leading mark, numbers, punctuation with a leading
// space, line ends and spaces. The families differ in how many digits a number takes and whether
// marks belong to words.
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen35[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array<std::string_view, 3> kLlama3Names = {"llama3", "llama-v3", "llama-bpe"};
constexpr std::array<std::string_view, 3> kGpt2Names = {"gpt-2", "phi-2", "roberta-bpe"};
constexpr std::array<std::string_view, 2> kQwen2Names = {"qwen2", "deepseek-r1-qwen"};
constexpr std::array<std::string_view, 3> kDigitsNames = {"smollm", "starcoder", "refact"};

template <size_t kCount>
bool IsOneOf(std::string_view name, const std::array<std::string_view, kCount>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

absl::StatusOr<NamedPreTokenizer> PreTokenizerByName(std::string_view name) {
  NamedPreTokenizer result;
  if (IsOneOf(name, kDigitsNames)) {
    result.pre_tokenizer.digits_apart = true;
    result.pre_tokenizer.gpt2_pattern = true;
  } else if (IsOneOf(name, kGpt2Names) || name == "default" || name.empty()) {
    result.pre_tokenizer.gpt2_pattern = true;
  } else if (IsOneOf(name, kQwen2Names)) {
    result.pre_tokenizer.patterns = {kQwen2};
    result.nfc = true;
  } else if (name == "qwen35") {
    result.pre_tokenizer.patterns = {kQwen35};
    result.nfc = true;
  } else if (IsOneOf(name, kLlama3Names)) {
    result.pre_tokenizer.patterns = {kLlama3};
    result.ignore_merges = true;
    result.add_bos = true;
  } else {
    return Unimplemented("pre-tokenizer \"", name, "\" is not supported");
  }
  return result;
}

}  // namespace spotd::text
