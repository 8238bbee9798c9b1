// Byte-pair encoding of one pre-token: single bytes are merged pair by pair, the pair of lowest
// rank first and of equal ranks the leftmost, until no known pair is left.
//
// Any text is encoded in O(n log n): short pieces by scanning, long ones with a heap. Most pieces
// are a word that is one token; which tokens come out whole is found once, at creation, so that
// these cost one look-up.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/bpe_tables.h"
#include "runtime/text/tokenizer_data.h"

namespace spotd::text {

// Thread-safety: const methods from any number of threads.
class Bpe {
 public:
  // Takes the vocabulary as bytes: `words[id]`, empty where text never becomes id. INVALID_ARGUMENT
  // when a merge names or makes a token that data.vocab lacks.
  static absl::StatusOr<std::unique_ptr<Bpe>> Create(const TokenizerData& data,
                                                     std::vector<std::string> words);

  // Appends the ids of one pre-token. A byte that the vocabulary lacks gives data.unknown, or
  // nothing if that is -1.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

  // Encode without the short cut for whole words, by the method named; for tests.
  void MergeByScanForTest(std::string_view piece, std::vector<int32_t>* ids) const;
  void MergeByHeapForTest(std::string_view piece, std::vector<int32_t>* ids) const;

 private:
  Bpe(const TokenizerData& data, std::vector<std::string> words);
  absl::Status AddMerges(const TokenizerData& data);
  void FindWholeWords();

  // Ids of the single bytes.
  void StartSymbols(std::string_view piece, std::vector<int32_t>* symbols) const;
  void MergeByScan(std::vector<int32_t>* symbols) const;
  void MergeByHeap(std::vector<int32_t>* symbols) const;

  const std::vector<std::string> words_;
  const WordTable word_table_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;
  std::vector<bool> whole_;  // by id: the bytes of this token encode to just this token
  const bool ignore_merges_;
  const int32_t unknown_;
  const bool fuse_unknown_;
};

}  // namespace spotd::text
