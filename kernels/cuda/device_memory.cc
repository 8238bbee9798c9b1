#include "kernels/cuda/device_memory.h"

#include <algorithm>
#include <cstring>

namespace spotd::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

GrowingMemory::~GrowingMemory() {
  if (data_ != nullptr) cudaFree(data_);
}

cudaError_t GrowingMemory::Grow(size_t bytes) {
  if (data_ != nullptr) cudaFree(data_);
  data_ = nullptr;
  bytes_ = 0;
  cudaError_t error = cudaMalloc(&data_, bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next launch would find it
    data_ = nullptr;
    return error;
  }
  error = cudaMemset(data_, 0, bytes);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  bytes_ = bytes;
  return error;
}

Staging::~Staging() {
  for (cudaEvent_t event : free_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (pinned_ != nullptr) cudaFreeHost(pinned_);
}

cudaError_t Staging::Create(cudaStream_t stream) {
  stream_ = stream;
  void* memory = nullptr;
  cudaError_t error = cudaMallocHost(&memory, 2 * kHalfBytes);
  if (error != cudaSuccess) return error;
  pinned_ = static_cast<char*>(memory);
  for (cudaEvent_t& event : free_) {
    error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t Staging::Reserve(size_t bytes, char** room) {
  if (used_ + bytes > kHalfBytes) {
    cudaError_t error = cudaEventRecord(free_[half_], stream_);
    if (error != cudaSuccess) return error;
    half_ ^= 1;
    used_ = 0;
    error = cudaEventSynchronize(free_[half_]);
    if (error != cudaSuccess) return error;
  }
  *room = pinned_ + static_cast<size_t>(half_) * kHalfBytes + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return cudaSuccess;
}

cudaError_t Staging::Upload(void* dst, const void* src, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const size_t part = std::min(kHalfBytes, bytes - done);
    char* room = nullptr;
    cudaError_t error = Reserve(part, &room);
    if (error != cudaSuccess) return error;
    std::memcpy(room, static_cast<const char*>(src) + done, part);
    error = cudaMemcpyAsync(static_cast<char*>(dst) + done, room, part, cudaMemcpyHostToDevice,
                            stream_);
    if (error != cudaSuccess) return error;
    done += part;
  }
  return cudaSuccess;
}

cudaError_t Staging::Download(void* dst, const void* src, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const size_t part = std::min(kHalfBytes, bytes - done);
    char* room = nullptr;
    cudaError_t error = Reserve(part, &room);
    if (error != cudaSuccess) return error;
    error = cudaMemcpyAsync(room, static_cast<const char*>(src) + done, part,
                            cudaMemcpyDeviceToHost, stream_);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream_);
    if (error != cudaSuccess) return error;
    std::memcpy(static_cast<char*>(dst) + done, room, part);
    done += part;
  }
  return cudaSuccess;
}

}  // namespace spotd::kernels::cuda
