// Cuts text into pre-tokens, the pieces that BPE never merges across.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/regex.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

// Thread-safety: const methods from any number of threads.
class PreSplitter {
 public:
  static absl::StatusOr<PreSplitter> Create(const TokenizerData::PreTokenizer& rules);

  using Sink = std::function<void(std::string_view piece)>;
  // Hands the pieces of `text` (valid UTF-8) to `sink` in order, none of them empty. The views live
  // for the call of `sink` only. INVALID_ARGUMENT when a pattern would need unreasonable work on
  // this text.
  absl::Status Split(std::string_view text, const Sink& sink) const;

 private:
  // The same piece twice: as it is, and as the expressions see it (see unicode_update.h). Equal
  // length.
  struct Piece {
    std::string_view text;
    std::string_view seen;
    Piece Part(size_t begin, size_t end) const {
      return {text.substr(begin, end - begin), seen.substr(begin, end - begin)};
    }
  };

  absl::Status SplitFrom(size_t stage, const Piece& piece, const Sink& sink) const;
  absl::Status SplitByPattern(size_t stage, const Piece& piece, const Sink& sink) const;

  std::vector<Regex> stages_;
  size_t prefix_stage_ = 0;  // a space is put in front of the pieces that enter this stage
  bool add_prefix_space_ = false;
};

}  // namespace spotd::text
