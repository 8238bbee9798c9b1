#include "tools/spot_eval/corpus.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "kernels/core/status.h"
#include "tools/common/loaded_model.h"

namespace spotd::eval {

absl::StatusOr<std::vector<std::string>> TextFiles(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) return NotFound("--text: no such file: ", path);
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::filesystem::recursive_directory_iterator it(path, error);
    for (; !error && it != std::filesystem::end(it); it.increment(error)) {
      if (it->is_regular_file(error)) files.push_back(it->path().string());
    }
    if (error) return NotFound("--text: cannot read ", path, ": ", error.message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<std::vector<Document>> LoadDocuments(const text::Tokenizer& tokenizer,
                                                    const std::vector<std::string>& paths,
                                                    int32_t tokens, int32_t most, bool windows) {
  SPOTD_ASSIGN_OR_RETURN(const auto files, TextFiles(paths));
  std::vector<Document> documents;
  int32_t read = 0;
  for (const std::string& path : files) {
    if (most > 0 && read == most) break;
    // A token is at least one byte: shorter files are not worth reading.
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (!error && bytes < static_cast<uintmax_t>(tokens)) continue;
    SPOTD_ASSIGN_OR_RETURN(auto ids, tools::TokensOfFile(path, tokenizer));
    if (ids.size() < static_cast<size_t>(tokens)) continue;
    ++read;
    const std::string name = std::filesystem::path(path).filename().string();
    const auto length = static_cast<std::ptrdiff_t>(tokens);
    for (std::ptrdiff_t at = length; windows && at + length <= std::ssize(ids); at += length) {
      documents.push_back(
          {Concat(name, "+", at / length), {ids.begin() + at, ids.begin() + at + length}});
    }
    documents.push_back({name, std::move(ids)});
  }
  if (documents.empty()) return InvalidArgument("--text: no file has ", tokens, " tokens");
  return documents;
}

}  // namespace spotd::eval
