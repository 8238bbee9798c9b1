// The two look-ups of BPE as flat hash tables: built once, then read by any number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spotd::text {

// Pair of token ids -> what the pair merges into, and how early.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = kNoMerge;  // lower merges first
    int32_t id = -1;
  };
  static constexpr int32_t kNoMerge = INT32_MAX;

  explicit MergeTable(size_t max_merges);
  // The last rank given for a pair counts.
  void Insert(int32_t left, int32_t right, Merge merge);
  Merge Find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key = kFree;
    Merge merge;
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  size_t SlotOf(uint64_t key) const;

  std::vector<Slot> slots_;
  uint32_t shift_;  // 64 - log2(slots)
};

// Bytes of a token -> its id.
class WordTable {
 public:
  // `words[id]` are the bytes of token id, empty for ids that text never becomes. Where two ids
  // have the same bytes the first one counts. The table keeps a pointer to `words`.
  explicit WordTable(const std::vector<std::string>* words);
  int32_t Find(std::string_view word) const;  // -1 when there is none

 private:
  size_t SlotOf(std::string_view word, uint32_t tag) const;

  struct Slot {
    int32_t id = -1;
    uint32_t tag = 0;  // part of the hash, compared before the bytes
  };
  const std::vector<std::string>* words_;
  std::vector<Slot> slots_;
  size_t max_bytes_ = 0;
};

}  // namespace spotd::text
