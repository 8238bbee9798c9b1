// Text to evaluate on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace spotd::eval {

struct Document {
  std::string name;  // the file's
  std::vector<int32_t> tokens;
};

// The files named, and those in the directories named, in order of name. NOT_FOUND names a path
// that does not exist, or a directory that cannot be read to its end.
absl::StatusOr<std::vector<std::string>> TextFiles(const std::vector<std::string>& paths);

// The first `most` documents of at least `tokens` tokens; 0 = all. With `windows`, each is cut into
// as many parts of `tokens` tokens as it holds, named after it with +1, +2 and so on.
// INVALID_ARGUMENT when there is none.
absl::StatusOr<std::vector<Document>> LoadDocuments(const text::Tokenizer& tokenizer,
                                                    const std::vector<std::string>& paths,
                                                    int32_t tokens, int32_t most,
                                                    bool windows = false);

}  // namespace spotd::eval
