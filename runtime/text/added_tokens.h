// Finds added tokens (control tokens and whole words that bypass BPE) in text: leftmost first, of
// those the longest.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

// Thread-safety: const methods from any number of threads.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher();
  // A second token with the same content is ignored, and so is an empty one.
  void Add(const AddedToken& token);

  struct Segment {
    std::string_view text;
    int32_t id = -1;  // -1: ordinary text
  };
  // Cuts `text` into tokens found and the text between them; lstrip and rstrip tokens swallow the
  // white space beside them. With `skip_special`, control tokens are passed over: their characters
  // are ordinary text, in which no other added token is looked for (this is `encode_special_tokens`
  // of the reference).
  std::vector<Segment> Split(std::string_view text, bool skip_special) const;

 private:
  struct Node {
    std::vector<std::pair<char, uint32_t>> children;
    int32_t token = -1;  // index into tokens_
  };
  struct Rule {
    int32_t id;
    bool special;
    bool lstrip;
    bool rstrip;
  };
  uint32_t Child(uint32_t node, char byte) const;  // 0: none
  // The longest token at the front of `text`: its index and length; -1 when there is none.
  int32_t LongestAt(std::string_view text, size_t* length) const;

  std::vector<Node> nodes_;  // nodes_[0] is the root
  std::array<bool, 256> starts_{};
  std::vector<Rule> tokens_;
};

}  // namespace spotd::text
