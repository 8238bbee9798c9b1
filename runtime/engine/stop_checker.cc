#include "runtime/engine/stop_checker.h"

#include <algorithm>
#include <utility>

namespace spotd::engine {

std::string StopChecker::Push(std::string_view piece) {
  if (stopped()) return {};
  held_ += piece;
  if (stops_.empty()) return std::exchange(held_, {});
  if (const Match match = FindFirst(); match.stop != nullptr) {
    matched_ = *match.stop;
    held_.resize(match.position);
    return std::exchange(held_, {});
  }
  const size_t give = held_.size() - OpenPrefix();
  std::string out = held_.substr(0, give);
  held_.erase(0, give);
  return out;
}

std::string StopChecker::Flush() {
  return std::exchange(held_, {});
}

StopChecker::Match StopChecker::FindFirst() const {
  Match best;
  size_t best_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t position = held_.find(stop);
    if (position == std::string::npos) continue;
    const size_t end = position + stop.size();
    if (end < best_end || (end == best_end && position < best.position)) {
      best = {position, &stop};
      best_end = end;
    }
  }
  return best;
}

size_t StopChecker::OpenPrefix() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    size_t length = std::min(stop.size() - 1, held_.size());
    while (length > longest &&
           !std::string_view(held_).ends_with(std::string_view(stop).substr(0, length))) {
      --length;
    }
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace spotd::engine
