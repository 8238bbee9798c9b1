// What a checkpoint says about text, independent of file format: the input of Tokenizer and
// ChatTemplate.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace spotd::text {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special =
      false;  // control token: never produced from user text unless asked for, hidden in output
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
};

struct TokenizerData {
  // How text is split before BPE: the regular expressions are applied in order, each to the pieces
  // of the one before. A piece that a pattern matches is one pre-token; what lies between matches
  // is one too ("isolated" behaviour).
  struct PreTokenizer {
    std::vector<std::string> patterns;  // PCRE2 / Oniguruma syntax
    bool digits_apart = false;  // Digits(individual_digits=true) before the patterns (SmolLM2)
    bool gpt2_pattern = false;  // ByteLevel(use_regex=true): GPT-2's pattern after the above
    bool add_prefix_space = false;
  };
  PreTokenizer pre_tokenizer;
  bool nfc = false;            // NFC normalisation first (Qwen)
  bool ignore_merges = false;  // a pre-token found whole in the vocabulary is not merged (Llama 3)
  // Token text in the byte-level alphabet (each byte one printable code point); index = id. Empty
  // string = unused id.
  std::vector<std::string> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // in rank order
  std::vector<AddedToken> added_tokens;
  int32_t bos = -1;
  int32_t eos = -1;
  int32_t pad = -1;
  int32_t unknown = -1;  // stands for bytes that the vocabulary lacks; -1: such bytes are left out
  bool fuse_unknown = false;  // one `unknown` for a run of them
  bool add_bos = false;       // Encode(add_special) prepends bos
  std::string chat_template;  // Jinja; empty when the checkpoint has none
};

}  // namespace spotd::text
