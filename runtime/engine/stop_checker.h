// Finds stop strings in generated text as it arrives, and holds back only what may still become
// one.
//
// Text given out is valid UTF-8 when the pieces pushed are: a stop string starts and ends at
// character boundaries, so what is held back does too. Not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace spotd::engine {

class StopChecker {
 public:
  // `stops` are not empty strings.
  explicit StopChecker(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Text that may be shown now that `piece` has arrived. Once a stop string has been found, what
  // precedes it is returned and nothing more comes.
  std::string Push(std::string_view piece);
  // What is still held back, when generation ends for another reason.
  std::string Flush();

  bool stopped() const { return !matched_.empty(); }
  // The stop string that was found: the one complete first, so that it does not matter how the text
  // was cut into pieces; of several complete at once, the longest.
  const std::string& matched() const { return matched_; }

 private:
  struct Match {
    size_t position = std::string::npos;
    const std::string* stop = nullptr;
  };
  Match FindFirst() const;
  // Length of the longest end of `held_` that begins some stop string.
  size_t OpenPrefix() const;

  std::vector<std::string> stops_;
  std::string held_;
  std::string matched_;
};

}  // namespace spotd::engine
