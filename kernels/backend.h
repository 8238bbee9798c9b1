// One compute device: memory plus the operations a transformer with selected-block attention needs.
//
// `ref` is the scalar fp32/fp64 definition of every operation, `cpu` the fast host implementation,
// `cuda` the GPU. tests/kernels/backend_conformance_test.cc runs every operation of every backend
// against `ref`.
//
// Thread-safety: one thread at a time (the engine thread). Operations may return before they
// complete on a device; Download and Synchronize wait. Operations do not fail on valid arguments; a
// device fault is sticky and reported by the next Synchronize. Arguments are checked by the caller
// (runtime), not here.
//
// Granularity is deliberately coarse (append, score, select, attend) so that a backend may fuse
// inside an operation while the model code above stays the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/args.h"
#include "kernels/core/dtype.h"

namespace spotd::kernels {

// A matrix in the backend's own packed form, made from checkpoint bytes by Backend::CreateWeight.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows() const { return rows_; }  // out_dim
  int64_t cols() const { return cols_; }  // in_dim
  // Bytes held in backend memory: what one pass over the matrix reads.
  size_t bytes() const { return bytes_; }

 protected:
  Weight(int64_t rows, int64_t cols, size_t bytes) : rows_(rows), cols_(cols), bytes_(bytes) {}
  int64_t rows_;
  int64_t cols_;
  size_t bytes_;
};

// A matrix as a checkpoint stores it. `data` is only read during CreateWeight.
struct WeightSource {
  std::string name;  // for error messages
  int64_t rows = 0;  // out_dim
  int64_t cols = 0;  // in_dim; a multiple of the type's block
  DType type = DType::kF32;
  const void* data = nullptr;  // host memory, rows * RowBytes(type, cols) bytes
  // Nullable. [rows]: row r of the weight is row row_order[r] of `data` (GGUF stores Llama's Q and
  // K rows permuted).
  const int32_t* row_order = nullptr;
};

class Backend;

// Owns an allocation in backend memory; frees it on destruction. Move-only.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend* backend, void* data, size_t bytes)
      : backend_(backend), data_(data), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// What it costs a decode step to choose blocks, as the bytes of one layer's K and V that attention
// reads in that time: a context with less is better read whole. 0: nothing that matters.
struct ChoosingCost {
  int64_t selector_bytes = 0;  // scores of the distilled selector
  int64_t quest_bytes = 0;     // bounds of every KV head
};

// Of a device with memory of its own, in which weights and KV must fit. A host, whose memory the
// system hands out as it is used, has none: both 0.
struct DeviceMemory {
  size_t total = 0;
  size_t free = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;
  // Human-readable device and instruction set, e.g. "AMD EPYC, AVX3_ZEN4, 2 threads".
  virtual std::string description() const = 0;
  // Bytes of one activation element (`Act` in args.h): 4 (float) on hosts.
  virtual size_t activation_bytes() const = 0;
  // As measured on a device of the kind.
  virtual ChoosingCost choosing_cost() const { return {}; }

  // --- memory ---
  virtual DeviceMemory memory() const { return {}; }
  // Uninitialised memory, aligned to at least 64 bytes. Large host allocations are reserved lazily:
  // pages cost memory when first touched. RESOURCE_EXHAUSTED when the device has no room.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;
  virtual void Upload(void* dst, const void* host_src, size_t bytes) = 0;
  virtual void Download(void* host_dst, const void* src, size_t bytes) = 0;
  virtual void Copy(void* dst, const void* src, size_t bytes) = 0;
  // UNAVAILABLE: the device is lost, for good. RESOURCE_EXHAUSTED: it had no room for what was
  // issued; later operations may work.
  virtual absl::Status Synchronize() = 0;

  // --- weights ---
  // Packs a checkpoint matrix. Quantised types stay quantised in memory. INVALID_ARGUMENT names the
  // tensor when the shape does not fit the type.
  virtual absl::StatusOr<std::unique_ptr<Weight>> CreateWeight(const WeightSource& source) = 0;

  // --- dense ---
  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void RmsNorm(const RmsNormArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  // As Linear, with float outputs: the language-model head.
  virtual void Logits(const LinearArgs& args) = 0;
  virtual void SwiGlu(const SwiGluArgs& args) = 0;
  // Linear into two outputs, then SwiGlu of them, which are its gate and up. What they hold
  // afterwards is anything: a backend may do both at once.
  virtual void LinearSwiGlu(const LinearArgs& linear, const SwiGluArgs& swiglu) {
    Linear(linear);
    SwiGlu(swiglu);
  }

  // --- cache ---
  virtual void AppendKv(const AppendKvArgs& args) = 0;
  virtual void AppendSelector(const AppendSelectorArgs& args) = 0;
  // Both, for the same rows: a backend may do them at once.
  virtual void Append(const AppendKvArgs& kv, const AppendSelectorArgs& keys) {
    AppendKv(kv);
    AppendSelector(keys);
  }

  // --- choosing blocks ---
  virtual void SelectorScore(const SelectorScoreArgs& args) = 0;
  virtual void QuestScore(const QuestScoreArgs& args) = 0;
  virtual void OracleScore(const OracleScoreArgs& args) = 0;
  virtual void Select(const SelectArgs& args) = 0;

  // --- attention ---
  virtual void Attend(const AttendArgs& args) = 0;
  virtual void PrefillAttend(const PrefillAttendArgs& args) = 0;

  // SelectorScore, Select of its scores and Attend to what it chooses, for the same rows. What
  // block_lse holds afterwards is anything: a backend may let rows pass from one to the next on
  // their own.
  virtual void AttendByScore(const SelectorScoreArgs& score, const SelectArgs& select,
                             const AttendArgs& attend) {
    SelectorScore(score);
    Select(select);
    Attend(attend);
  }

  // --- sampling ---
  virtual void Sample(const SampleArgs& args) = 0;

  // --- steps ---
  // Runs `issue`, which calls operations of this backend and nothing else. A device backend may
  // record them the first time it sees `key` and replay the recording afterwards without calling
  // `issue`: for one key, the caller promises the same operations with the same argument values
  // (the memory they point to may hold new contents). Uploads and Downloads stay outside. Hosts
  // just call `issue`.
  virtual void RunStep(uint64_t key, const std::function<void()>& issue) = 0;

 private:
  friend class Buffer;
  virtual void Free(void* data, size_t bytes) = 0;
};

inline constexpr int kMaxThreads = 1024;

struct BackendOptions {
  std::string name =
      "auto";       // "auto" (cuda where a usable GPU is present, else cpu), "cpu", "ref" or "cuda"
  int threads = 0;  // host threads for "cpu", at most kMaxThreads; 0 = one per online core
};

// INVALID_ARGUMENT for an unknown name or number of threads; FAILED_PRECONDITION, saying why, where
// the device cannot be used.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace spotd::kernels
