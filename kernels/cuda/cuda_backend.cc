#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/core/device_facts.h"
#include "kernels/core/status.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cuda/backend_stream.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/graph_cache.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_flow.h"

namespace spotd::kernels {
namespace cuda {
namespace {

constexpr int kDevice = 0;
constexpr size_t kMaxGraphs = 128;
constexpr int64_t kUploadElements = int64_t{16}
                                    << 20;  // weights are decoded and sent in pieces of this many
// Where whole steps with and without choice took equally long on an H100, one sequence of the
// qwen3-8b geometry (docs/performance-gpu.md): 11K and 26K tokens of 4 KiB a layer.
constexpr ChoosingCost kChoosingCost = {int64_t{11} << 22, int64_t{26} << 22};
// An output of fewer columns is not worth a library call.
constexpr int64_t kSmallOutput = 128;

class CudaBackend final : public Backend {
 public:
  CudaBackend() = default;
  ~CudaBackend() override;
  absl::Status Open();

  std::string_view name() const override { return "cuda"; }
  std::string description() const override { return description_; }
  size_t activation_bytes() const override { return 2; }
  ChoosingCost choosing_cost() const override { return kChoosingCost; }
  cudaStream_t stream() const { return stream_; }

  DeviceMemory memory() const override;
  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  void Upload(void* dst, const void* host_src, size_t bytes) override;
  void Download(void* host_dst, const void* src, size_t bytes) override;
  void Copy(void* dst, const void* src, size_t bytes) override;
  absl::Status Synchronize() override;
  absl::StatusOr<std::unique_ptr<Weight>> CreateWeight(const WeightSource& source) override;

  void Embed(const EmbedArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override { Check(LaunchRmsNorm(ctx_, args), "RmsNorm"); }
  void Linear(const LinearArgs& args) override { Project(args, false); }
  void Logits(const LinearArgs& args) override { Project(args, true); }
  void SwiGlu(const SwiGluArgs& args) override { Check(LaunchSwiGlu(ctx_, args), "SwiGlu"); }
  void LinearSwiGlu(const LinearArgs& linear, const SwiGluArgs& swiglu) override;
  void AppendKv(const AppendKvArgs& args) override {
    Check(LaunchAppendKv(ctx_, args), "AppendKv");
  }
  void AppendSelector(const AppendSelectorArgs& args) override {
    Check(LaunchAppendSelector(ctx_, args), "AppendSelector");
  }
  void Append(const AppendKvArgs& kv, const AppendSelectorArgs& keys) override {
    Check(LaunchAppend(ctx_, kv, keys), "Append");
  }
  void SelectorScore(const SelectorScoreArgs& args) override {
    Check(LaunchSelectorScore(ctx_, args), "SelectorScore");
  }
  void QuestScore(const QuestScoreArgs& args) override;
  void OracleScore(const OracleScoreArgs& args) override;
  void Select(const SelectArgs& args) override {
    Check(LaunchSelect(ctx_, args, selecting_.data()), "Select");
  }
  void Attend(const AttendArgs& args) override;
  void AttendByScore(const SelectorScoreArgs& score, const SelectArgs& select,
                     const AttendArgs& attend) override;
  void PrefillAttend(const PrefillAttendArgs& args) override {
    Check(LaunchPrefillAttend(ctx_, args), "PrefillAttend");
  }
  void Sample(const SampleArgs& args) override;
  void RunStep(uint64_t key, const std::function<void()>& issue) override;

 private:
  void Free(void* data, size_t bytes) override;
  // Keeps the first error; Synchronize reports it, and but for want of memory every later call too.
  void Check(cudaError_t error, const char* what);
  void Project(const LinearArgs& args, bool float_outputs);
  // The large-product path for one output. False: use our own kernel.
  bool ProjectByLibrary(const LinearArgs& args, const LinearSegment& segment);
  // Memory for one operation's intermediate results; null (and a recorded error) when the device
  // has no room.
  void* Scratch(size_t bytes);

  cudaStream_t stream_ = nullptr;
  LaunchContext ctx_ = {};
  std::string description_;
  absl::Status fault_;
  std::unique_ptr<CublasLt> cublas_;
  GrowingMemory scratch_;
  GrowingMemory selecting_;  // selection's, fixed
  GrowingMemory flowing_;    // of a RowFlow, fixed
  Staging staging_;
  GraphCache graphs_{kMaxGraphs};
};

CudaBackend::~CudaBackend() {
  if (stream_ == nullptr) return;
  cudaStreamSynchronize(stream_);
  graphs_.Clear();
  cublas_.reset();
  cudaStreamDestroy(stream_);
}

// Of device 0. Properties and memory stay unread where the driver or the count is no good.
absl::StatusOr<DeviceFacts> ReadFacts(cudaDeviceProp* properties) {
  DeviceFacts facts;
  facts.runtime = CUDART_VERSION;
  if (cudaDriverGetVersion(&facts.driver) != cudaSuccess || facts.driver == 0) return facts;
  if (const cudaError_t error = cudaGetDeviceCount(&facts.devices); error != cudaSuccess) {
    cudaGetLastError();
    facts.devices = 0;
    facts.why_none = cudaGetErrorString(error);
  }
  if (facts.devices == 0) return facts;
  SPOTD_RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(properties, kDevice), "reading the GPU's properties"));
  facts.name = properties->name;
  facts.capability_major = properties->major;
  facts.capability_minor = properties->minor;
  if (facts.capability_major < 8) return facts;
  SPOTD_RETURN_IF_ERROR(ToStatus(cudaSetDevice(kDevice), "opening the GPU"));
  SPOTD_RETURN_IF_ERROR(
      ToStatus(cudaMemGetInfo(&facts.free_bytes, &facts.total_bytes), "reading the GPU's memory"));
  return facts;
}

absl::Status CudaBackend::Open() {
  cudaDeviceProp properties = {};
  SPOTD_ASSIGN_OR_RETURN(const DeviceFacts facts, ReadFacts(&properties));
  SPOTD_RETURN_IF_ERROR(CheckDevice(facts));
  SPOTD_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"));
  SPOTD_RETURN_IF_ERROR(ToStatus(staging_.Create(stream_), "pinning transfer memory"));
  SPOTD_RETURN_IF_ERROR(ToStatus(selecting_.Grow(SelectScratchBytes()), "allocating on the GPU"));
  SPOTD_RETURN_IF_ERROR(ToStatus(flowing_.Grow(kRowFlowBytes), "allocating on the GPU"));
  ctx_ = {stream_, properties.multiProcessorCount, properties.major == 9};
  cublas_ = CublasLt::Load();
  description_ =
      Concat(properties.name, ", ", Gibibytes(properties.totalGlobalMem), ", compute capability ",
             properties.major, ".", properties.minor, cublas_ == nullptr ? ", no cuBLASLt" : "");
  return absl::OkStatus();
}

void CudaBackend::Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && fault_.ok()) fault_ = ToStatus(error, what);
}

absl::StatusOr<Buffer> CudaBackend::Allocate(size_t bytes) {
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, std::max<size_t>(bytes, 1));
      error != cudaSuccess) {
    cudaGetLastError();  // running out of memory does not harm the device
    const DeviceMemory room = memory();
    return ToStatus(error, Concat("allocating ", Gibibytes(bytes), " on the GPU, which has ",
                                  Gibibytes(room.free), " of ", Gibibytes(room.total), " free"));
  }
  return Buffer(this, data, bytes);
}

void CudaBackend::Free(void* data, size_t) {
  cudaFree(data);
}

void CudaBackend::Upload(void* dst, const void* host_src, size_t bytes) {
  Check(staging_.Upload(dst, host_src, bytes), "Upload");
}

void CudaBackend::Download(void* host_dst, const void* src, size_t bytes) {
  Check(staging_.Download(host_dst, src, bytes), "Download");
}

void CudaBackend::Copy(void* dst, const void* src, size_t bytes) {
  Check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream_), "Copy");
}

DeviceMemory CudaBackend::memory() const {
  DeviceMemory room;
  if (cudaMemGetInfo(&room.free, &room.total) != cudaSuccess) return {};
  return room;
}

absl::Status CudaBackend::Synchronize() {
  Check(cudaStreamSynchronize(stream_), "running on the GPU");
  absl::Status fault = fault_;
  // Want of memory spoils what was issued, not the device.
  if (absl::IsResourceExhausted(fault)) fault_ = absl::OkStatus();
  return fault;
}

absl::StatusOr<std::unique_ptr<Weight>> CudaBackend::CreateWeight(const WeightSource& source) {
  SPOTD_RETURN_IF_ERROR(CheckSource(source));
  SPOTD_ASSIGN_OR_RETURN(Buffer data, Allocate(static_cast<size_t>(source.rows * source.cols) * 2));
  const int64_t rows_at_once = std::max<int64_t>(1, kUploadElements / source.cols);
  std::vector<uint16_t> decoded(
      static_cast<size_t>(std::min(rows_at_once, source.rows) * source.cols));
  ThreadPool pool(static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u)));
  for (int64_t begin = 0; begin < source.rows; begin += rows_at_once) {
    const int64_t count = std::min(rows_at_once, source.rows - begin);
    pool.ParallelFor(count, 16, [&](int64_t from, int64_t to, int) {
      DecodeRows(source, begin + from, begin + to, decoded.data() + from * source.cols);
    });
    Upload(data.as<uint16_t>() + begin * source.cols, decoded.data(),
           static_cast<size_t>(count * source.cols) * 2);
  }
  SPOTD_RETURN_IF_ERROR(fault_);
  return std::make_unique<CudaWeight>(source.rows, source.cols, std::move(data));
}

void CudaBackend::Embed(const EmbedArgs& args) {
  const auto& table = static_cast<const CudaWeight&>(*args.table);
  Check(LaunchEmbed(ctx_, table.data(), static_cast<int32_t>(table.cols()), args), "Embed");
}

bool CudaBackend::ProjectByLibrary(const LinearArgs& args, const LinearSegment& segment) {
  if (cublas_ == nullptr || args.rows <= kMaxInvariantRows || segment.out_dim < kSmallOutput ||
      segment.out_dim % 8 != 0 || args.in_dim % 8 != 0) {
    return false;
  }
  const bool y_is_float = segment.kind != OutputKind::kBf16;
  const GemmArgs gemm = {
      args.x,          segment.weight, segment.y,  args.rows,
      segment.out_dim, args.in_dim,    y_is_float, segment.kind == OutputKind::kFloatAccumulate};
  if (!cublas_->Gemm(gemm, stream_)) return false;
  if (segment.bias != nullptr) {
    Check(LaunchAddBias(ctx_, segment.y, y_is_float, segment.bias, args.rows, segment.out_dim),
          "Linear");
  }
  return true;
}

void CudaBackend::Project(const LinearArgs& args, bool float_outputs) {
  LinearLaunch launch = {};
  launch.x = args.x;
  launch.rows = args.rows;
  launch.in_dim = args.in_dim;
  for (int i = 0; i < args.num_outputs; ++i) {
    const LinearOutput& output = args.outputs[i];
    const auto& weight = static_cast<const CudaWeight&>(*output.weight);
    const OutputKind kind = output.accumulate ? OutputKind::kFloatAccumulate
                            : float_outputs   ? OutputKind::kFloat
                                              : OutputKind::kBf16;
    const LinearSegment segment = {
        weight.data(), output.bias, output.y, static_cast<int32_t>(weight.rows()), 0,
        kind,          nullptr};
    if (!ProjectByLibrary(args, segment)) launch.segments[launch.num_segments++] = segment;
  }
  if (launch.num_segments > 0) Check(LaunchLinear(ctx_, launch), "Linear");
}

void CudaBackend::LinearSwiGlu(const LinearArgs& linear, const SwiGluArgs& swiglu) {
  const LinearOutput& gate = linear.outputs[0];
  const LinearOutput& up = linear.outputs[1];
  if (linear.rows > kMaxInvariantRows || !LinearIsTiled(linear.in_dim) || gate.bias != nullptr ||
      up.bias != nullptr) {
    Backend::LinearSwiGlu(linear, swiglu);
    return;
  }
  LinearLaunch launch = {};
  launch.x = linear.x;
  launch.rows = linear.rows;
  launch.in_dim = linear.in_dim;
  launch.num_segments = 1;
  launch.segments[0] = {static_cast<const CudaWeight&>(*gate.weight).data(),
                        nullptr,
                        swiglu.out,
                        swiglu.dim,
                        0,
                        OutputKind::kSwiGlu,
                        static_cast<const CudaWeight&>(*up.weight).data()};
  Check(LaunchLinear(ctx_, launch), "LinearSwiGlu");
}

void* CudaBackend::Scratch(size_t bytes) {
  if (scratch_.Fits(bytes)) return scratch_.data();
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(stream_, &capturing);
  if (capturing != cudaStreamCaptureStatusNone) {
    // The direct run that preceded this capture needed less. Spoil the capture: the step then runs
    // directly.
    cudaStreamSynchronize(stream_);
    return scratch_.data();
  }
  cudaStreamSynchronize(stream_);
  graphs_.Clear();
  if (const cudaError_t error = scratch_.Grow(bytes + bytes / 4); error != cudaSuccess) {
    Check(error, "growing scratch memory");
    return nullptr;
  }
  return scratch_.data();
}

void CudaBackend::QuestScore(const QuestScoreArgs& args) {
  void* scratch = Scratch(HeadMassScratchBytes(args.batch, args.layer.block_tokens, args.q_heads));
  if (scratch != nullptr) Check(LaunchQuestScore(ctx_, args, scratch), "QuestScore");
}

void CudaBackend::OracleScore(const OracleScoreArgs& args) {
  void* scratch = Scratch(HeadMassScratchBytes(args.batch, args.layer.block_tokens, args.q_heads));
  if (scratch != nullptr) Check(LaunchOracleScore(ctx_, args, scratch), "OracleScore");
}

void CudaBackend::Attend(const AttendArgs& args) {
  if (!AttendIsSpecialised(args.layer, args.q_heads)) {
    Check(LaunchAttendGeneric(ctx_, args), "Attend");
    return;
  }
  void* scratch = Scratch(AttendScratchBytes(ctx_, args));
  if (scratch != nullptr) Check(LaunchAttend(ctx_, args, scratch), "Attend");
}

void CudaBackend::AttendByScore(const SelectorScoreArgs& score, const SelectArgs& select,
                                const AttendArgs& attend) {
  const RowFlow flow = MakeRowFlow(ctx_, score, select, attend, flowing_.data());
  if (flow.ready == nullptr) {
    Backend::AttendByScore(score, select, attend);
    return;
  }
  void* scratch = Scratch(AttendScratchBytes(ctx_, attend));
  if (scratch == nullptr) return;
  cudaError_t error = LaunchScoreRows(ctx_, score, select.rules, flow);
  if (error == cudaSuccess) error = LaunchSelectRows(ctx_, select, flow);
  if (error == cudaSuccess) error = LaunchAttend(ctx_, attend, scratch, flow);
  // What a step that came halfway has left there would mislead the next.
  if (error != cudaSuccess) cudaMemsetAsync(flowing_.data(), 0, kRowFlowBytes, stream_);
  Check(error, "AttendByScore");
}

void CudaBackend::Sample(const SampleArgs& args) {
  void* scratch = Scratch(SampleScratchBytes(args));
  if (scratch != nullptr) Check(LaunchSample(ctx_, args, scratch), "Sample");
}

void CudaBackend::RunStep(uint64_t key, const std::function<void()>& issue) {
  Check(graphs_.Run(key, stream_, issue), "running a step");
}

}  // namespace

cudaStream_t StreamOf(Backend* backend) {
  return static_cast<CudaBackend*>(backend)->stream();
}

}  // namespace cuda

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  auto backend = std::make_unique<cuda::CudaBackend>();
  SPOTD_RETURN_IF_ERROR(backend->Open());
  return backend;
}

bool CudaIsUsable() {
  int count = 0;
  cudaDeviceProp properties = {};
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
         cudaGetDeviceProperties(&properties, cuda::kDevice) == cudaSuccess &&
         properties.major >= 8;
}

}  // namespace spotd::kernels
