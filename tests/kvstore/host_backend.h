// Host memory without arithmetic: all that the KV store asks of a backend. Its capacity is bounded,
// so that tests can run out of memory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/backend.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace spotd::kvstore {

class HostBackend : public kernels::Backend {
 public:
  explicit HostBackend(size_t capacity = SIZE_MAX) : capacity_(capacity) {}
  ~HostBackend() override { SPOTD_CHECK(allocated_ == 0); }

  size_t allocated() const { return allocated_; }

  std::string_view name() const override { return "host"; }
  std::string description() const override { return "host memory"; }
  size_t activation_bytes() const override { return sizeof(float); }

  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes) override {
    if (bytes > capacity_ - allocated_) return ResourceExhausted("no room for ", bytes, " bytes");
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    SPOTD_CHECK(data != nullptr);
    allocated_ += bytes;
    return kernels::Buffer(this, data, bytes);
  }
  void Upload(void* dst, const void* src, size_t bytes) override { std::memcpy(dst, src, bytes); }
  void Download(void* dst, const void* src, size_t bytes) override { std::memcpy(dst, src, bytes); }
  void Copy(void* dst, const void* src, size_t bytes) override { std::memcpy(dst, src, bytes); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<kernels::Weight>> CreateWeight(
      const kernels::WeightSource&) override {
    return Unimplemented("no weights");
  }

  void Embed(const kernels::EmbedArgs&) override { SPOTD_CHECK(false); }
  void RmsNorm(const kernels::RmsNormArgs&) override { SPOTD_CHECK(false); }
  void Linear(const kernels::LinearArgs&) override { SPOTD_CHECK(false); }
  void Logits(const kernels::LinearArgs&) override { SPOTD_CHECK(false); }
  void SwiGlu(const kernels::SwiGluArgs&) override { SPOTD_CHECK(false); }
  void AppendKv(const kernels::AppendKvArgs&) override { SPOTD_CHECK(false); }
  void AppendSelector(const kernels::AppendSelectorArgs&) override { SPOTD_CHECK(false); }
  void SelectorScore(const kernels::SelectorScoreArgs&) override { SPOTD_CHECK(false); }
  void QuestScore(const kernels::QuestScoreArgs&) override { SPOTD_CHECK(false); }
  void OracleScore(const kernels::OracleScoreArgs&) override { SPOTD_CHECK(false); }
  void Select(const kernels::SelectArgs&) override { SPOTD_CHECK(false); }
  void Attend(const kernels::AttendArgs&) override { SPOTD_CHECK(false); }
  void PrefillAttend(const kernels::PrefillAttendArgs&) override { SPOTD_CHECK(false); }
  void Sample(const kernels::SampleArgs&) override { SPOTD_CHECK(false); }
  void RunStep(uint64_t, const std::function<void()>& issue) override { issue(); }

 private:
  void Free(void* data, size_t bytes) override {
    allocated_ -= bytes;
    std::free(data);
  }

  size_t capacity_;
  size_t allocated_ = 0;
};

}  // namespace spotd::kvstore
