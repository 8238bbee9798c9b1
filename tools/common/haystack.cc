#include "tools/common/haystack.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>

#include "kernels/core/status.h"

namespace spotd::tools {
namespace {

const std::vector<std::string> kPeople = {
    "The baker",  "The old sailor",       "A young teacher", "The gardener", "Our neighbour",
    "The farmer", "A travelling painter", "The librarian",   "The shepherd", "A quiet student"};
const std::vector<std::string> kActions = {
    "walked along", "painted",  "looked after", "wrote a letter about", "talked about",
    "repaired",     "measured", "remembered",   "drew a map of",        "sat down beside"};
const std::vector<std::string> kThings = {
    "the stone bridge", "the small harbour", "the wooden fence",      "the empty market",
    "the long road",    "the apple orchard", "the mill by the river", "the green hills",
    "the town square",  "the narrow garden"};
const std::vector<std::string> kTimes = {
    "in the early morning",  "after the rain had stopped", "while the bells were ringing",
    "before the first snow", "on a warm afternoon",        "when the wind turned north",
    "as the light faded",    "during the harvest"};

const std::string& Word(Random& random, const std::vector<std::string>& words) {
  return words[Pick(random, words.size())];
}

std::string Sentence(Random& random) {
  return Word(random, kPeople) + " " + Word(random, kActions) + " " + Word(random, kThings) + " " +
         Word(random, kTimes) + ". ";
}

}  // namespace

void Haystack::Add(std::string text, const CountTokens& count) {
  const int32_t tokens = std::max(1, count(text));
  pieces_.push_back({std::move(text), tokens});
}

Haystack Haystack::MadeUp(uint64_t seed, int32_t tokens, const CountTokens& count) {
  Haystack haystack;
  Random random(seed);
  for (int64_t made = 0; made < tokens; made += haystack.pieces_.back().tokens) {
    haystack.Add(Sentence(random), count);
  }
  return haystack;
}

absl::StatusOr<Haystack> Haystack::FromTexts(const std::vector<std::string>& texts,
                                             const CountTokens& count) {
  Haystack haystack;
  for (const std::string& text : texts) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      haystack.Add(line + "\n", count);
    }
  }
  if (haystack.pieces_.empty()) return InvalidArgument("--text: the files hold no text");
  return haystack;
}

std::vector<std::string> Haystack::Cut(Random& random, int32_t tokens) const {
  std::vector<std::string> cut;
  size_t at = Pick(random, pieces_.size());
  for (int32_t left = tokens; pieces_[at].tokens <= left; at = (at + 1) % pieces_.size()) {
    left -= pieces_[at].tokens;
    cut.push_back(pieces_[at].text);
  }
  return cut;
}

void InsertInOrder(const std::vector<Insertion>& insertions, std::vector<std::string>* pieces) {
  const auto count = static_cast<double>(pieces->size());
  // From the last on, so that the places of the others stay what they are.
  for (size_t i = insertions.size(); i-- > 0;) {
    const double at = std::clamp(insertions[i].depth, 0.0, 1.0) * count;
    pieces->insert(pieces->begin() + std::lround(at), insertions[i].text);
  }
}

void Insert(const Insertion& insertion, std::vector<std::string>* pieces) {
  InsertInOrder({insertion}, pieces);
}

}  // namespace spotd::tools
