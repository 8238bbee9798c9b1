#include "kernels/cpu/cpu_backend.h"

#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "hwy/targets.h"
#include "kernels/core/status.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/weight.h"

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
  void RmsNorm(const RmsNormArgs& args) override { cpu::RmsNorm(args, pool_); }
  void SwiGlu(const SwiGluArgs& args) override { cpu::SwiGlu(args, pool_); }
  void AppendKv(const AppendKvArgs& args) override { cpu::AppendKv(args, pool_, rope_); }
  void AppendSelector(const AppendSelectorArgs& args) override {
    cpu::AppendSelector(args, pool_, selector_rope_);
  }
  void SelectorScore(const SelectorScoreArgs& args) override {
    cpu::SelectorScore(args, pool_, selector_scratch_);
  }
  void QuestScore(const QuestScoreArgs& args) override {
    cpu::QuestScore(args, pool_, mass_scratch_);
  }
  void OracleScore(const OracleScoreArgs& args) override {
    cpu::OracleScore(args, pool_, mass_scratch_);
  }
  void Select(const SelectArgs& args) override { cpu::Select(args, pool_, select_scratch_); }
  void Attend(const AttendArgs& args) override { cpu::Attend(args, pool_, attend_scratch_); }
  void PrefillAttend(const PrefillAttendArgs& args) override {
    cpu::PrefillAttend(args, pool_, prefill_scratch_);
  }
  void Sample(const SampleArgs& args) override { cpu::Sample(args, pool_, sample_scratch_); }

  void RunStep(uint64_t, const std::function<void()>& issue) override { issue(); }

 private:
  void Free(void* data, size_t bytes) override { cpu::FreeHost(data, bytes); }

  ThreadPool pool_;
  LinearScratch linear_scratch_;
  cpu::RopeTable rope_;
  cpu::RopeTable selector_rope_;
  cpu::SelectorScratch selector_scratch_;
  cpu::HeadMassScratch mass_scratch_;
  cpu::SelectScratch select_scratch_;
  cpu::AttendScratch attend_scratch_;
  cpu::PrefillScratch prefill_scratch_;
  cpu::SampleScratch sample_scratch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(int threads) {
  if (threads < 0) return InvalidArgument("threads is ", threads, ", not >= 0");
  return std::make_unique<CpuBackend>(threads == 0 ? CoresOfProcess() : threads);
}

}  // namespace spotd::kernels
