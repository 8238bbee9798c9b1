#include "kernels/cpu/cpu_backend.h"

#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "hwy/targets.h"
#include "kernels/core/status.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/weight.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels {
namespace {

// The processor's name as the system tells it.
std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t value = line.find(": ");
    if (line.starts_with("model name") && value != std::string::npos) return line.substr(value + 2);
  }
  return "unknown processor";
}

// The widest instruction set that both this processor and this build have.
std::string InstructionSet() {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);
}

int CoresOfProcess() {
  const unsigned cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : static_cast<int>(cores);
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : pool_(threads) {}

  std::string_view name() const override { return "cpu"; }
  std::string description() const override {
    return Concat(ProcessorName(), ", ", InstructionSet(), ", ", pool_.num_threads(), " threads");
  }
  size_t activation_bytes() const override { return sizeof(float); }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    void* const data = cpu::AllocateHost(bytes);
    if (data == nullptr) return ResourceExhausted("no host memory for ", bytes, " bytes");
    return Buffer(this, data, bytes);
  }
  void Upload(void* dst, const void* host_src, size_t bytes) override {
    Copy(dst, host_src, bytes);
  }
  void Download(void* host_dst, const void* src, size_t bytes) override {
    Copy(host_dst, src, bytes);
  }
  void Copy(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }

  absl::StatusOr<std::unique_ptr<Weight>> CreateWeight(const WeightSource& source) override {
    return MakeCpuWeight(source);
  }

  void Embed(const EmbedArgs& args) override { CpuEmbed(args, pool_); }
  void Linear(const LinearArgs& args) override { CpuLinear(args, pool_, linear_scratch_); }
  void Logits(const LinearArgs& args) override { CpuLinear(args, pool_, linear_scratch_); }
  void RmsNorm(const RmsNormArgs& args) override { ref::RmsNorm(args); }
  void SwiGlu(const SwiGluArgs& args) override { ref::SwiGlu(args); }
  void AppendKv(const AppendKvArgs& args) override { ref::AppendKv(args); }
  void AppendSelector(const AppendSelectorArgs& args) override { ref::AppendSelector(args); }
  void SelectorScore(const SelectorScoreArgs& args) override { ref::SelectorScore(args); }
  void QuestScore(const QuestScoreArgs& args) override { ref::QuestScore(args); }
  void OracleScore(const OracleScoreArgs& args) override { ref::OracleScore(args); }
  void Select(const SelectArgs& args) override { ref::Select(args); }
  void Attend(const AttendArgs& args) override { ref::Attend(args); }
  void PrefillAttend(const PrefillAttendArgs& args) override { ref::PrefillAttend(args); }
  void Sample(const SampleArgs& args) override { ref::Sample(args); }

  void RunStep(uint64_t, const std::function<void()>& issue) override { issue(); }

 private:
  void Free(void* data, size_t bytes) override { cpu::FreeHost(data, bytes); }

  ThreadPool pool_;
  LinearScratch linear_scratch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(int threads) {
  if (threads < 0) return InvalidArgument("threads is ", threads, ", not >= 0");
  return std::make_unique<CpuBackend>(threads == 0 ? CoresOfProcess() : threads);
}

}  // namespace spotd::kernels
