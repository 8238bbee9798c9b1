// Times of the engine as protobuf's well-known types.
#pragma once

#include <chrono>
#include <cmath>

#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace spotd::server {

inline google::protobuf::Duration ToDuration(std::chrono::nanoseconds value) {
  google::protobuf::Duration out;
  out.set_seconds(value.count() / 1'000'000'000);
  out.set_nanos(static_cast<int32_t>(value.count() % 1'000'000'000));
  return out;
}

inline google::protobuf::Duration ToDuration(double seconds) {
  return ToDuration(std::chrono::nanoseconds(std::llround(seconds * 1e9)));
}

inline google::protobuf::Timestamp ToTimestamp(int64_t unix_ms) {
  google::protobuf::Timestamp out;
  out.set_seconds(unix_ms / 1000);
  out.set_nanos(static_cast<int32_t>(unix_ms % 1000) * 1'000'000);
  return out;
}

}  // namespace spotd::server
