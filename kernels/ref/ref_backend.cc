#include "kernels/ref/ref_backend.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "kernels/core/status.h"
#include "kernels/ref/ref_ops.h"

namespace spotd::kernels {
namespace {

constexpr size_t kAlignment = 64;

class RefBackend final : public Backend {
 public:
  std::string_view name() const override { return "ref"; }
  std::string description() const override { return "scalar reference, 1 thread"; }
  size_t activation_bytes() const override { return sizeof(float); }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* const data = rounded < bytes ? nullptr : std::aligned_alloc(kAlignment, rounded);
    if (data == nullptr && bytes > 0) return ResourceExhausted("no memory for ", bytes, " bytes");
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
    return ref::CreateWeight(source);
  }

  void Embed(const EmbedArgs& args) override { ref::Embed(args); }
  void RmsNorm(const RmsNormArgs& args) override { ref::RmsNorm(args); }
  void Linear(const LinearArgs& args) override { ref::Linear(args); }
  void Logits(const LinearArgs& args) override { ref::Linear(args); }
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
  void Free(void* data, size_t) override { std::free(data); }
};

}  // namespace

std::unique_ptr<Backend> CreateRefBackend() {
  return std::make_unique<RefBackend>();
}

}  // namespace spotd::kernels
