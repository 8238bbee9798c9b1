// Filler text that facts are hidden in: whole sentences or lines, from files or made up.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotd::tools {

using Random = std::mt19937_64;

// A number in [0, count), the same on every machine (the standard distributions are not).
inline size_t Pick(Random& random, size_t count) {
  return static_cast<size_t>(random() % count);
}

using CountTokens = std::function<int32_t(const std::string&)>;

class Haystack {
 public:
  // Sentences about nothing, made from `seed`, for up to `tokens` tokens.
  static Haystack MadeUp(uint64_t seed, int32_t tokens, const CountTokens& count);
  // The lines of the texts that hold something. INVALID_ARGUMENT when there is none.
  static absl::StatusOr<Haystack> FromTexts(const std::vector<std::string>& texts,
                                            const CountTokens& count);

  // Consecutive pieces from a random place on, of at most `tokens` tokens together; starts over at
  // the end of the text.
  std::vector<std::string> Cut(Random& random, int32_t tokens) const;

 private:
  struct Piece {
    std::string text;  // ends with what separates it from the next
    int32_t tokens;
  };
  void Add(std::string text, const CountTokens& count);
  std::vector<Piece> pieces_;
};

// Something put after a share `depth` (0 to 1) of the pieces.
struct Insertion {
  double depth;
  std::string text;
};
void Insert(const Insertion& insertion, std::vector<std::string>* pieces);
// Several, by ascending depth: they keep this order.
void InsertInOrder(const std::vector<Insertion>& insertions, std::vector<std::string>* pieces);

}  // namespace spotd::tools
