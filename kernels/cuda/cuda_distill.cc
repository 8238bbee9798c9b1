#include "kernels/cuda/cuda_distill.h"

#include <cmath>
#include <memory>
#include <utility>

#include "kernels/cuda/backend_stream.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/distill.h"
#include "kernels/cuda/distill_limits.h"

namespace spotd::kernels {
namespace cuda {
namespace {

class CudaDistillKernels final : public DistillKernels {
 public:
  explicit CudaDistillKernels(cudaStream_t stream) : stream_(stream) {}

  // One small allocation: the running figures, a sum, and its partial sums.
  absl::Status Open() {
    return ToStatus(sums_.Grow((kStatCount + 1 + kSumPartials) * sizeof(double)),
                    "allocating on the GPU");
  }

  DistillLimits limits(int32_t block_tokens) const override {
    int device = 0;
    int bytes = 0;
    const bool known = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                              device) == cudaSuccess;
    return known ? LimitsOfSharedMemory(static_cast<size_t>(bytes), block_tokens) : DistillLimits{};
  }

  void Accumulate(const DistillArgs& args) override {
    const size_t bytes = DistillScratchBytes(args);
    if (!scratch_.Fits(bytes)) {
      cudaStreamSynchronize(stream_);
      Check(scratch_.Grow(bytes), "allocating for training");
      if (!fault_.ok()) return;
    }
    Check(LaunchDistill(stream_, args, CarveDistillScratch(args, scratch_.data(), stats())),
          "distilling a layer");
  }

  absl::StatusOr<DistillStats> TakeStats() override {
    double sums[kStatCount] = {};
    Check(cudaMemcpyAsync(sums, stats(), sizeof(sums), cudaMemcpyDeviceToHost, stream_),
          "reading the loss");
    Check(cudaMemsetAsync(stats(), 0, sizeof(sums), stream_), "resetting the loss");
    Check(cudaStreamSynchronize(stream_), "training");
    if (!fault_.ok()) return fault_;
    return DistillStats{sums[0], sums[1], sums[2], sums[3], sums[4], static_cast<int64_t>(sums[5])};
  }

  void Zero(float* values, int64_t count) override {
    Check(cudaMemsetAsync(values, 0, static_cast<size_t>(count) * sizeof(float), stream_),
          "clearing gradients");
  }

  double SumOfSquares(const float* values, int64_t count) override {
    double* sum = stats() + kStatCount;
    Check(LaunchSumOfSquares(stream_, values, count, sum + 1, sum), "summing squares");
    double result = 0;
    Check(cudaMemcpyAsync(&result, sum, sizeof(result), cudaMemcpyDeviceToHost, stream_),
          "reading a sum");
    Check(cudaStreamSynchronize(stream_), "summing squares");
    return fault_.ok() ? result : std::nan("");
  }

  void AdamW(const AdamWArgs& args) override {
    const auto correction = [&](float beta) {
      return static_cast<float>(
          1.0 - std::pow(static_cast<double>(beta), static_cast<double>(args.step)));
    };
    Check(LaunchAdamW(stream_, args, correction(args.beta1), correction(args.beta2)),
          "updating weights");
  }

 private:
  double* stats() const { return static_cast<double*>(sums_.data()); }
  void Check(cudaError_t error, const char* what) {
    if (error != cudaSuccess && fault_.ok()) fault_ = ToStatus(error, what);
  }

  cudaStream_t stream_;
  GrowingMemory scratch_;
  GrowingMemory sums_;
  absl::Status fault_;
};

}  // namespace
}  // namespace cuda

absl::StatusOr<std::unique_ptr<DistillKernels>> CreateCudaDistillKernels(Backend* backend) {
  auto kernels = std::make_unique<cuda::CudaDistillKernels>(cuda::StreamOf(backend));
  SPOTD_RETURN_IF_ERROR(kernels->Open());
  return kernels;
}

}  // namespace spotd::kernels
