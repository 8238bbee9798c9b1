// Memory on a backend, and the time that its operations take.
//
// For benchmarks: what fails (no room, a device fault) ends the program with a message, because
// there is nothing to report then.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"

namespace spotd::bench {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start);

// Ends the program when `status` is an error.
void Require(const absl::Status& status);
template <typename T>
T Require(absl::StatusOr<T> value) {
  Require(value.status());
  return *std::move(value);
}

class OperationTimer {
 public:
  explicit OperationTimer(kernels::Backend* backend) : backend_(*backend) {}
  kernels::Backend& backend() { return backend_; }
  std::mt19937& random() { return random_; }
  bool on_device() const { return backend_.memory().total > 0; }

  kernels::Buffer Make(size_t bytes) { return Require(backend_.Allocate(bytes)); }
  template <typename T>
  kernels::Buffer Put(const std::vector<T>& values) {
    kernels::Buffer buffer = Make(values.size() * sizeof(T));
    backend_.Upload(buffer.data(), values.data(), buffer.bytes());
    return buffer;
  }
  // Normal numbers in the backend's activation type, or (Halves) in bf16 as caches hold them.
  kernels::Buffer PutActs(size_t count, float deviation);
  kernels::Buffer PutHalves(size_t count, float deviation);
  // Fills memory with copies of its first `seeded` bytes.
  void Replicate(const kernels::Buffer& buffer, size_t seeded);

  // Seconds for one call of `issue` as a captured step: the median of nine runs of about 5 ms.
  double Time(const std::function<void()>& issue);
  // Bytes per second that a large copy moves, read plus written: what floors are reckoned from.
  double CopyRate();

 private:
  double Run(uint64_t key, const std::function<void()>& issue, int times);

  kernels::Backend& backend_;
  std::mt19937 random_{1};
  uint64_t key_ = 0;
};

}  // namespace spotd::bench
