#include "kernels/backend.h"

#include <utility>

#include "kernels/core/status.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/ref/ref_backend.h"

namespace spotd::kernels {

Buffer::Buffer(Buffer&& other) noexcept
    : backend_(std::exchange(other.backend_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) backend_->Free(data_, bytes_);
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return InvalidArgument("threads is ", options.threads, ", not in 0..", kMaxThreads);
  }
  if (options.name == "ref") return CreateRefBackend();
  if (options.name == "cpu") return CreateCpuBackend(options.threads);
  if (options.name == "cuda") return CreateCudaBackend();
  if (options.name == "auto") {
    return CudaIsUsable() ? CreateCudaBackend() : CreateCpuBackend(options.threads);
  }
  return InvalidArgument("unknown backend '", options.name, "'; one of auto, cpu, cuda, ref");
}

}  // namespace spotd::kernels
