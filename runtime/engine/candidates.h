// Several replies to one prompt (n-best): they are sequences of their own that share the prompt's
// KV, and end as one request.
//
// Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/request.h"

namespace spotd::engine {

// Gathers the candidates of one request for its sink. Candidate 0 is the one that a session keeps.
class CandidateGroup : public std::enable_shared_from_this<CandidateGroup> {
 public:
  CandidateGroup(std::shared_ptr<TokenSink> sink, std::shared_ptr<CancelToken> cancel,
                 int32_t candidates)
      : sink_(std::move(sink)), cancel_(std::move(cancel)), results_(candidates) {}

  // The sink of one candidate, which begins with it. The others begin together, once the prompt is
  // computed, and where that fails they never do.
  std::shared_ptr<TokenSink> Sink(int32_t index);

 private:
  class CandidateSink;
  void End(int32_t index, absl::StatusOr<GenerateResult> result);

  std::shared_ptr<TokenSink> sink_;
  std::shared_ptr<CancelToken> cancel_;
  std::vector<std::optional<absl::StatusOr<GenerateResult>>> results_;
  size_t begun_ = 0;
  size_t ended_ = 0;
  absl::Status first_error_;
};

}  // namespace spotd::engine
