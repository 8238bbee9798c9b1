// The text a selector is trained on: documents, tokenised once, split by document into training and
// held-out parts.
//
// Thread-safety: immutable after loading.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace spotd::distill {

struct CorpusOptions {
  // Text files, or directories searched for *.txt, *.md, *.rst, *.pod, *.py. In *.chat.txt the
  // model's control tokens, written out, are read as such.
  std::vector<std::string> paths;
  int32_t length = 1024;   // tokens of a training sequence
  double held_out = 0.02;  // share of the documents kept from training
  uint64_t seed = 1;       // of that choice
};

// `threads`, or one per core when it is not positive; at most kernels::kMaxThreads.
int HostThreads(int threads);

class Corpus {
 public:
  // Tokenises on `threads` threads. Errors name the file and the reason: unreadable, empty, binary,
  // invalid UTF-8, or too little text in all.
  static absl::StatusOr<Corpus> Load(const CorpusOptions& options, const text::Tokenizer& tokenizer,
                                     int threads = 1);

  // Training sequence number `index` of the order that `seed` gives: `length` tokens. A pure
  // function of both, so that a resumed run sees what an uninterrupted one would have seen.
  std::span<const int32_t> TrainingSequence(uint64_t seed, int64_t index) const;
  // Held-out sequences, each from one place of the held-out documents; index in [0,
  // num_held_out()).
  std::span<const int32_t> HeldOutSequence(int64_t index) const;
  // Training documents of at least `tokens` tokens, at most `count`, picked by the seed.
  std::vector<std::span<const int32_t>> LongDocuments(int32_t tokens, size_t count) const;
  int64_t num_held_out() const { return static_cast<int64_t>(held_out_.size()) / length_; }

  int64_t training_tokens() const { return static_cast<int64_t>(training_.size()); }
  int64_t documents() const { return documents_; }
  // Hash of the training tokens, in hex.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  Corpus() = default;
  int32_t length_ = 0;
  uint64_t seed_ = 0;
  int64_t documents_ = 0;
  std::vector<int32_t> training_;  // all training documents, one after the other
  std::vector<size_t> ends_;       // of each of them in training_
  std::vector<int32_t> held_out_;
  std::string fingerprint_;
};

}  // namespace spotd::distill
