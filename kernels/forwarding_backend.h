// A backend that hands every operation to another one: tests and instruments derive from it to
// watch or replace single operations.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/backend.h"

namespace spotd::kernels {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  std::string_view name() const override { return inner_->name(); }
  std::string description() const override { return inner_->description(); }
  ChoosingCost choosing_cost() const override { return inner_->choosing_cost(); }
  size_t activation_bytes() const override { return inner_->activation_bytes(); }
  DeviceMemory memory() const override { return inner_->memory(); }

  // The buffer belongs to the inner backend, which must live as long.
  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return inner_->Allocate(bytes); }
  void Upload(void* dst, const void* src, size_t bytes) override {
    inner_->Upload(dst, src, bytes);
  }
  void Download(void* dst, const void* src, size_t bytes) override {
    inner_->Download(dst, src, bytes);
  }
  void Copy(void* dst, const void* src, size_t bytes) override { inner_->Copy(dst, src, bytes); }
  absl::Status Synchronize() override { return inner_->Synchronize(); }
  absl::StatusOr<std::unique_ptr<Weight>> CreateWeight(const WeightSource& source) override {
    return inner_->CreateWeight(source);
  }

  void Embed(const EmbedArgs& args) override { inner_->Embed(args); }
  void RmsNorm(const RmsNormArgs& args) override { inner_->RmsNorm(args); }
  void Linear(const LinearArgs& args) override { inner_->Linear(args); }
  void Logits(const LinearArgs& args) override { inner_->Logits(args); }
  void SwiGlu(const SwiGluArgs& args) override { inner_->SwiGlu(args); }
  void LinearSwiGlu(const LinearArgs& linear, const SwiGluArgs& swiglu) override {
    inner_->LinearSwiGlu(linear, swiglu);
  }
  void AppendKv(const AppendKvArgs& args) override { inner_->AppendKv(args); }
  void AppendSelector(const AppendSelectorArgs& args) override { inner_->AppendSelector(args); }
  void Append(const AppendKvArgs& kv, const AppendSelectorArgs& keys) override {
    inner_->Append(kv, keys);
  }
  void SelectorScore(const SelectorScoreArgs& args) override { inner_->SelectorScore(args); }
  void QuestScore(const QuestScoreArgs& args) override { inner_->QuestScore(args); }
  void OracleScore(const OracleScoreArgs& args) override { inner_->OracleScore(args); }
  void Select(const SelectArgs& args) override { inner_->Select(args); }
  void Attend(const AttendArgs& args) override { inner_->Attend(args); }
  // AttendByScore is not forwarded: it is made of the three above, which others may watch.
  void PrefillAttend(const PrefillAttendArgs& args) override { inner_->PrefillAttend(args); }
  void Sample(const SampleArgs& args) override { inner_->Sample(args); }
  void RunStep(uint64_t key, const std::function<void()>& issue) override {
    inner_->RunStep(key, issue);
  }

 protected:
  Backend& inner() { return *inner_; }

 private:
  void Free(void*, size_t) override {}  // never called: buffers are the inner backend's

  std::unique_ptr<Backend> inner_;
};

}  // namespace spotd::kernels
