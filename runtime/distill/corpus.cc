#include "runtime/distill/corpus.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "kernels/backend.h"
#include "kernels/core/status.h"
#include "kernels/core/thread_pool.h"
#include "runtime/distill/random.h"

namespace spotd::distill {
namespace {

namespace fs = std::filesystem;

// Conversations, in which the model's markers are control tokens.
constexpr std::string_view kChatSuffix = ".chat.txt";
constexpr uintmax_t kMaxFileBytes = uintmax_t{64} << 20;

bool IsText(const fs::path& path) {
  static const std::set<std::string> kExtensions = {".txt", ".md", ".rst", ".pod", ".py"};
  return kExtensions.count(path.extension().string()) != 0;
}

// Every file that `paths` names, in an order that does not depend on the file system.
absl::StatusOr<std::vector<std::string>> FilesOf(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    for (auto it = fs::recursive_directory_iterator(path, error); !error && it != fs::end(it);
         it.increment(error)) {
      if (it->is_regular_file(error) && IsText(it->path())) files.push_back(it->path().string());
    }
    if (error) return NotFound("--corpus: cannot read ", path, ": ", error.message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  if (error) return NotFound("--corpus: cannot read ", path, ": ", error.message());
  if (size > kMaxFileBytes) {
    return InvalidArgument("--corpus: ", path, " has ", size, " bytes; split files over ",
                           kMaxFileBytes, " bytes");
  }
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || text.size() != size) return DataLoss("--corpus: cannot read all of ", path);
  if (text.empty()) return InvalidArgument("--corpus: ", path, " is empty");
  if (text.find('\0') != std::string::npos)
    return InvalidArgument("--corpus: ", path, " is binary, not text");
  return text;
}

absl::StatusOr<std::vector<int32_t>> TokensOf(const std::string& path,
                                              const text::Tokenizer& tokenizer) {
  SPOTD_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  text::EncodeOptions options;
  options.parse_special = path.ends_with(kChatSuffix);
  auto tokens = tokenizer.Encode(text, options);
  if (!tokens.ok()) return InvalidArgument("--corpus: ", path, ": ", tokens.status().message());
  return tokens;
}

// FNV-1a, a token at a time.
std::string FingerprintOf(std::span<const int32_t> tokens) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3u;
  }
  return Concat(std::hex, hash);
}

}  // namespace

int HostThreads(int threads) {
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(threads > 0 ? threads : cores, 1, kernels::kMaxThreads);
}

absl::StatusOr<Corpus> Corpus::Load(const CorpusOptions& options, const text::Tokenizer& tokenizer,
                                    int threads) {
  SPOTD_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOf(options.paths));
  if (files.empty()) return InvalidArgument("--corpus: no text files found");
  Corpus corpus;
  corpus.length_ = options.length;
  corpus.seed_ = options.seed;
  corpus.documents_ = static_cast<int64_t>(files.size());
  std::vector<absl::StatusOr<std::vector<int32_t>>> documents(files.size());
  ThreadPool pool(threads);
  pool.ParallelFor(corpus.documents_, 1, [&](int64_t begin, int64_t end, int) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      documents[i] = TokensOf(files[i], tokenizer);
    }
  });
  const bool single = files.size() == 1;
  for (size_t i = 0; i < files.size(); ++i) {
    SPOTD_RETURN_IF_ERROR(documents[i].status());
    const bool held_out = !single && RandomUnit(options.seed, i) < options.held_out;
    std::vector<int32_t>& part = held_out ? corpus.held_out_ : corpus.training_;
    part.insert(part.end(), documents[i]->begin(), documents[i]->end());
    if (!held_out) corpus.ends_.push_back(part.size());
  }
  if (corpus.training_tokens() < 2 * int64_t{options.length}) {
    return InvalidArgument("--corpus: ", corpus.training_tokens(), " training tokens in ",
                           files.size(), " files are too few for sequences of --length ",
                           options.length);
  }
  corpus.fingerprint_ = FingerprintOf(corpus.training_);
  return corpus;
}

std::span<const int32_t> Corpus::TrainingSequence(uint64_t seed, int64_t index) const {
  const auto starts = static_cast<uint64_t>(training_tokens() - length_);
  const uint64_t start = RandomBits(seed + 1, static_cast<uint64_t>(index)) % starts;
  return std::span(training_).subspan(start, static_cast<size_t>(length_));
}

std::vector<std::span<const int32_t>> Corpus::LongDocuments(int32_t tokens, size_t count) const {
  std::vector<std::span<const int32_t>> found;
  for (size_t i = 0; i < ends_.size(); ++i) {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    const size_t size = ends_[i] - begin;
    if (size >= static_cast<size_t>(tokens))
      found.push_back(std::span(training_).subspan(begin, size));
  }
  // The first `count` places of a Fisher-Yates shuffle.
  count = std::min(count, found.size());
  for (size_t i = 0; i < count; ++i) {
    std::swap(found[i], found[i + RandomBits(seed_ + 2, i) % (found.size() - i)]);
  }
  found.resize(count);
  return found;
}

std::span<const int32_t> Corpus::HeldOutSequence(int64_t index) const {
  return std::span(held_out_).subspan(static_cast<size_t>(index * length_),
                                      static_cast<size_t>(length_));
}

}  // namespace spotd::distill
