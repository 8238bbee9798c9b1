// Another backend with hooks at the end of each step and before each allocation: to make steps
// fail, last, or wait for the test, and a device full.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/backend.h"
#include "kernels/core/status.h"

namespace spotd::testing {

// Called on the engine thread, once for each prefill chunk and each decode step; what it returns is
// the step's outcome. May be replaced at any time, from any thread.
class StepHook {
 public:
  void Set(std::function<absl::Status()> hook) {
    const std::lock_guard lock(mutex_);
    hook_ = std::move(hook);
  }
  absl::Status Call() {
    std::function<absl::Status()> hook;
    {
      const std::lock_guard lock(mutex_);
      hook = hook_;
    }
    return hook ? hook() : absl::OkStatus();
  }

 private:
  std::mutex mutex_;
  std::function<absl::Status()> hook_;
};

class HookedBackend : public kernels::Backend {
 public:
  // `allocation`, nullable, says what becomes of each allocation.
  HookedBackend(std::unique_ptr<kernels::Backend> inner, std::shared_ptr<StepHook> hook,
                std::shared_ptr<StepHook> allocation = nullptr)
      : inner_(std::move(inner)), hook_(std::move(hook)), allocation_(std::move(allocation)) {}

  std::string_view name() const override { return inner_->name(); }
  std::string description() const override { return inner_->description(); }
  size_t activation_bytes() const override { return inner_->activation_bytes(); }
  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes) override {
    if (allocation_ != nullptr) SPOTD_RETURN_IF_ERROR(allocation_->Call());
    return inner_->Allocate(bytes);
  }
  void Upload(void* dst, const void* src, size_t bytes) override {
    inner_->Upload(dst, src, bytes);
  }
  void Download(void* dst, const void* src, size_t bytes) override {
    inner_->Download(dst, src, bytes);
  }
  void Copy(void* dst, const void* src, size_t bytes) override { inner_->Copy(dst, src, bytes); }
  absl::Status Synchronize() override {
    const absl::Status status = inner_->Synchronize();
    return status.ok() ? hook_->Call() : status;
  }
  absl::StatusOr<std::unique_ptr<kernels::Weight>> CreateWeight(
      const kernels::WeightSource& source) override {
    return inner_->CreateWeight(source);
  }
  void Embed(const kernels::EmbedArgs& args) override { inner_->Embed(args); }
  void RmsNorm(const kernels::RmsNormArgs& args) override { inner_->RmsNorm(args); }
  void Linear(const kernels::LinearArgs& args) override { inner_->Linear(args); }
  void Logits(const kernels::LinearArgs& args) override { inner_->Logits(args); }
  void SwiGlu(const kernels::SwiGluArgs& args) override { inner_->SwiGlu(args); }
  void AppendKv(const kernels::AppendKvArgs& args) override { inner_->AppendKv(args); }
  void AppendSelector(const kernels::AppendSelectorArgs& args) override {
    inner_->AppendSelector(args);
  }
  void SelectorScore(const kernels::SelectorScoreArgs& args) override {
    inner_->SelectorScore(args);
  }
  void QuestScore(const kernels::QuestScoreArgs& args) override { inner_->QuestScore(args); }
  void OracleScore(const kernels::OracleScoreArgs& args) override { inner_->OracleScore(args); }
  void Select(const kernels::SelectArgs& args) override { inner_->Select(args); }
  void Attend(const kernels::AttendArgs& args) override { inner_->Attend(args); }
  void PrefillAttend(const kernels::PrefillAttendArgs& args) override {
    inner_->PrefillAttend(args);
  }
  void Sample(const kernels::SampleArgs& args) override { inner_->Sample(args); }
  void RunStep(uint64_t key, const std::function<void()>& issue) override {
    inner_->RunStep(key, issue);
  }

 private:
  // Buffers belong to the inner backend.
  void Free(void*, size_t) override {}

  std::unique_ptr<kernels::Backend> inner_;
  std::shared_ptr<StepHook> hook_;
  std::shared_ptr<StepHook> allocation_;
};

}  // namespace spotd::testing
