// From the messages of spotd.v1 to the engine's requests. Errors name the field by its path in the
// request.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/model/policy.h"
#include "spotd/v1/inference.pb.h"
#include "spotd/v1/policy.pb.h"

namespace spotd::server {

// "sessions/abc" -> "abc". `field` names where `name` stood.
absl::StatusOr<std::string> SessionId(const std::string& name, std::string_view field);

// The fields that `policy` sets, laid over `base`; checked, also against what the engine can run.
absl::StatusOr<model::Policy> OverlayPolicy(const v1::Policy& policy, const model::Policy& base,
                                            const engine::Engine& engine, std::string_view field);

// Fills in the defaults; the engine checks the ranges.
absl::StatusOr<engine::Sampling> ToSampling(const v1::Sampling& sampling);

// Of a Duration or Timestamp that a client sent; the range that protobuf allows is checked.
absl::StatusOr<std::chrono::milliseconds> ToMilliseconds(const google::protobuf::Duration& value,
                                                         std::string_view field);
absl::StatusOr<int64_t> ToUnixMilliseconds(const google::protobuf::Timestamp& value,
                                           std::string_view field);

// A hash of what was asked, so that an id that comes with another request is noticed. How text was
// cut into chunks does not count.
uint64_t Fingerprint(const std::vector<engine::Input>& inputs);
// Of the message's type and fields, these in a fixed order.
uint64_t Fingerprint(const google::protobuf::Message& message);

// OUT_OF_RANGE (PROMPT_TOO_LONG) where `field` brings more than one call may.
absl::Status CheckBytes(size_t bytes, size_t limit, std::string_view field);

// Collects the pieces of a prompt, joining neighbouring text chunks, and refuses too many bytes or
// pieces before they pile up.
class InputCollector {
 public:
  // Of pieces and chat messages together. They may be empty, and take memory all the same.
  static constexpr size_t kMaxPieces = size_t{1} << 18;

  // `max_bytes` counts text bytes, and 4 for each token id.
  explicit InputCollector(size_t max_bytes) : max_bytes_(max_bytes) {}

  absl::Status Add(const v1::Input& input, std::string_view field);
  std::vector<engine::Input> Take() { return std::move(inputs_); }

 private:
  absl::Status Count(size_t bytes, std::string_view field);
  absl::Status CountPiece(std::string_view field);
  absl::Status AddMessages(const v1::MessageList& messages, std::string_view field);

  size_t max_bytes_;
  size_t bytes_ = 0;
  size_t pieces_ = 0;
  bool in_chunk_ = false;  // the last piece was a text chunk
  std::vector<engine::Input> inputs_;
};

}  // namespace spotd::server
