// Test text that is the same bytes on every machine: made from tests/data/text/seed.txt by seeded
// cutting, mixing and damaging. make_tokenizer_goldens.py encodes the same text with the reference
// library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spotd::text {

// SplitMix64; the standard library's distributions differ between implementations.
class SeededRandom {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  size_t Below(size_t n) { return static_cast<size_t>(Next() % n); }

 private:
  uint64_t state_;
};

class Corpus {
 public:
  static constexpr size_t kMixedRecords = 84;   // each a little over 64 KiB: 5.5 MB in all
  static constexpr size_t kRandomBlocks = 100;  // of random strings
  static constexpr size_t kStringsPerBlock = 1000;

  explicit Corpus(const std::string& seed_text);

  // Languages, code, emoji, broken spacing, line ends and control characters, by record number.
  std::string MixedText(size_t record) const;
  // Up to about a hundred characters from all over Unicode, special tokens among them.
  std::string RandomString(size_t number) const;

 private:
  std::string SeedPiece(SeededRandom* random, size_t max_characters) const;
  std::string DamagedPiece(SeededRandom* random) const;

  std::vector<std::string> seed_;  // the seed text's characters
};

// FNV-1a, 64 bits.
class Fnv64 {
 public:
  void Add(const void* data, size_t bytes);
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace spotd::text
