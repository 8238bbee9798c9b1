// Owners of device and pinned host memory, and the staging of transfers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace spotd::kernels::cuda {

// Device memory that only grows. Its contents do not survive growth. Not thread-safe.
class GrowingMemory {
 public:
  GrowingMemory() = default;
  ~GrowingMemory();
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;

  bool Fits(size_t bytes) const { return bytes <= bytes_; }
  // Replaces the allocation by one of at least `bytes`, zeroed. No work that uses the old one may
  // be pending.
  cudaError_t Grow(size_t bytes);
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Transfers between pageable host memory and the device through a pinned ring, so that an upload
// returns without waiting for the device: the source may be reused at once. One stream. Not
// thread-safe.
class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  cudaError_t Create(cudaStream_t stream);
  cudaError_t Upload(void* dst, const void* src, size_t bytes);
  // Waits for the stream.
  cudaError_t Download(void* dst, const void* src, size_t bytes);

 private:
  static constexpr size_t kHalfBytes = size_t{8} << 20;

  // Makes room for `bytes` <= kHalfBytes in the ring, waiting for the half that is about to be
  // overwritten.
  cudaError_t Reserve(size_t bytes, char** room);

  cudaStream_t stream_ = nullptr;
  char* pinned_ = nullptr;    // two halves
  cudaEvent_t free_[2] = {};  // recorded when the last transfer of a half was enqueued
  int half_ = 0;
  size_t used_ = 0;  // of the current half
};

}  // namespace spotd::kernels::cuda
