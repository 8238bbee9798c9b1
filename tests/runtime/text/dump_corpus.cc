// Writes the corpus for make_tokenizer_goldens.py: each text as its length (32 bits) and its bytes,
// first the mixed records, then the random strings.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "tests/runtime/text/corpus.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: dump_corpus SEED_TEXT OUTPUT\n";
    return 2;
  }
  using spotd::text::Corpus;
  std::ifstream seed(argv[1], std::ios::binary);
  const Corpus corpus(
      std::string{std::istreambuf_iterator<char>(seed), std::istreambuf_iterator<char>()});
  std::ofstream out(argv[2], std::ios::binary);
  const auto write = [&out](const std::string& text) {
    const auto size = static_cast<uint32_t>(text.size());
    out.write(reinterpret_cast<const char*>(&size), sizeof size);
    out.write(text.data(), size);
  };
  for (size_t i = 0; i < Corpus::kMixedRecords; ++i) write(corpus.MixedText(i));
  const size_t strings = Corpus::kRandomBlocks * Corpus::kStringsPerBlock;
  for (size_t i = 0; i < strings; ++i) write(corpus.RandomString(i));
  return out.good() ? 0 : 1;
}
