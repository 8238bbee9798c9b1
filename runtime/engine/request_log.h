// Answers of a session's latest requests that carried an id, so that one sent again is answered
// again instead of being done again.
//
// Bounded: the latest `kKept` requests. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/request.h"

namespace spotd::engine {

// A request that succeeded, and all it answered.
struct AnsweredRequest {
  std::string id;
  uint64_t fingerprint = 0;  // of what was asked
  bool generated = false;    // which of the two results counts
  AppendResult append;
  GenerateResult generate;
  std::vector<TokenEvent> events;  // of a Generate
};

class RequestLog {
 public:
  static constexpr size_t kKept = 4;

  // Null when it is not among the latest.
  std::shared_ptr<const AnsweredRequest> Find(std::string_view id) const {
    for (const auto& request : requests_) {
      if (request->id == id) return request;
    }
    return nullptr;
  }
  void Add(std::shared_ptr<const AnsweredRequest> request) {
    requests_.push_back(std::move(request));
    if (requests_.size() > kKept) requests_.pop_front();
  }

 private:
  std::deque<std::shared_ptr<const AnsweredRequest>> requests_;
};

}  // namespace spotd::engine
