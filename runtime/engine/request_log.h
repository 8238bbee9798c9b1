// Answers of a session's latest requests that carried an id, so that one sent again is answered
// again instead of being done again.
//
// Bounded: the latest `kKept` answers, and of these only the latest Generate's tokens and text,
// which are no more than the session itself holds. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/request.h"

namespace spotd::engine {

// A request that succeeded, and what it answered.
struct AnsweredRequest {
  std::string id;
  uint64_t fingerprint = 0;  // of what was asked
  bool generated = false;    // which of the two results counts
  AppendResult append;
  GenerateResult generate;
  // Of a Generate, the latest one only: what its sink got.
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;                 // [tokens]
  std::vector<std::vector<TokenLogprob>> top;  // [tokens]; empty unless asked for

  void Add(const TokenEvent& event);
  // Gives the sink what it got the first time, all text with the first token.
  void Replay(TokenSink* sink) const;
};

class RequestLog {
 public:
  static constexpr size_t kKept = 4;

  // Null when it is not among the latest.
  std::shared_ptr<const AnsweredRequest> Find(std::string_view id) const;
  void Add(AnsweredRequest request);

 private:
  std::deque<std::shared_ptr<const AnsweredRequest>> requests_;
};

}  // namespace spotd::engine
